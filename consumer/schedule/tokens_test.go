package schedule

import (
	"math"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// seasoned declares the queue of a schedule, with tokens as earlier daemons left them.
func seasoned(t *testing.T, v *rabbittest.Vhost, s Schedule, records ...record) {
	t.Helper()
	v.Declare(t, s.tokenQueue(), broker.TokenArguments())
	for _, r := range records {
		v.Publish(t, s.tokenQueue(), signed(s, r))
	}
}

// signed is a token of the user of the tests.
func signed(s Schedule, r record) amqp.Publishing {
	msg := r.token(s.Name, s.rule(), "old")
	msg.UserId = "guest"
	return msg
}

// unsigned is a token as a release before wrote it, or as anybody may.
func unsigned(s Schedule, r record) amqp.Publishing {
	msg := r.token(s.Name, "", "old")
	delete(msg.Headers, headerOwnRule)
	return msg
}

// TestATokenThatIsLost has an operator purge and delete the queue of the token, and then
// lose the token itself, as a policy may that has messages expire.
func TestATokenThatIsLost(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	quick := func(r *Runner) { r.loops[0].timeouts.renew = 2 * time.Second }
	start := func() *running { return runConfig(t, v.URL, Config{Schedules: []Schedule{s}}, quick) }
	a, b := start(), start()
	goesOn := func(what string) {
		t.Helper()
		before := v.Ready(t, "jobs")
		rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "jobs") >= before+2 }, what)
	}
	goesOn("it fires")
	if _, err := v.Channel(t).QueuePurge(s.tokenQueue(), false); err != nil {
		t.Fatal(err)
	}
	goesOn("it fires after a purge")
	withoutGaps(t, firings(t, v, "jobs", "tick"), time.Second)
	v.DeleteQueue(t, s.tokenQueue())
	goesOn("it fires after its queue was deleted")
	if times := firings(t, v, "jobs", "tick"); times[len(times)-1].Sub(times[0]) > time.Duration(len(times))*time.Second {
		t.Errorf("more than one is missing: %v", times) // one may be, if not the leader but the other one was back first
	}

	// With its leader gone, the token expires before anybody is handed it: the next
	// probe makes up for it.
	v.SetPolicy(t, "expire", "^warren[.]schedule[.]", `{"message-ttl":0}`, "queues")
	leader := awaitLeader(t, a, b)
	follower := a
	if leader == a {
		follower = b
	}
	leader.end()
	awaitLeader(t, follower)
	goesOn("the follower fires")
	firings(t, v, "jobs", "tick")
}

// TestTokensOfOthers has somebody who may publish to every queue try to silence a schedule,
// to have it begin in 1970, and to break its leader, while one leads and as another takes
// over.
func TestTokensOfOthers(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	leader, next := runScheduled(t, v.URL, "", s), (*running)(nil)
	awaitLeader(t, leader)
	var forged []amqp.Publishing
	for _, done := range []time.Time{time.Now().Add(time.Hour), time.Now().AddDate(100, 0, 0), time.Unix(0, 0), time.UnixMilli(math.MaxInt64), time.Now().Add(-time.Hour)} {
		forged = append(forged, unsigned(s, record{done: done, rule: s.rule(), versions: []string{"v"}}))
	}
	forged = append(forged, amqp.Publishing{Body: []byte("what is this?")}, amqp.Publishing{Headers: amqp.Table{headerDone: amqp.Table{"a": "b"}}})
	goesOn := func(what string) {
		t.Helper()
		before := v.Ready(t, "jobs")
		rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "jobs") >= before+2 }, what)
	}
	goesOn("it fires")
	v.Publish(t, s.tokenQueue(), forged...)
	goesOn("it fires still")
	rabbittest.Eventually(t, 5*time.Second, func() bool {
		return contains(leader.log, "does not come from this daemon's user, it is ignored") && v.Unacked(t, s.tokenQueue()) == 1
	}, "they are ignored, and gone")

	next = runScheduled(t, v.URL, "", s)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Unacked(t, s.tokenQueue()) == 2 }, "the next one has sent its probe")
	url := v.AddUser(t, "publisher", "pw", "^$", ".*", "^$")
	publish, err := broker.Dialer{}.Dial(t.Context(), url, broker.Options{Purpose: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer publish.Close()
	ended := make(chan struct{})
	go func() { // as the leader ends
		defer close(ended)
		leader.end()
	}()
	for range 50 {
		for _, msg := range forged {
			if err := publish.Publish(t.Context(), broker.Outgoing{Key: s.tokenQueue(), Message: msg}); err != nil {
				t.Error(err)
			}
		}
	}
	<-ended
	awaitLeader(t, next)
	goesOn("the next one fires")
	withoutGaps(t, firings(t, v, "jobs", "tick"), time.Second)
	equal(t, contains(next.log, "goes on from the record"), false)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, s.tokenQueue()) == 0 && v.Unacked(t, s.tokenQueue()) == 1 }, "they are all gone")
}

// TestUpgrade goes on where a release has stopped that did not sign its tokens, and where
// daemons have that log in as another user: nothing is fired again, nothing is left out.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	v.Declare(t, "seeds", nil)
	tick := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	seed := Schedule{Name: "seed", Once: true, Queue: "seeds"}
	done := time.Now().Add(-5 * time.Second).Truncate(time.Second).UTC()
	for _, s := range []Schedule{tick, seed} {
		v.Declare(t, s.tokenQueue(), broker.TokenArguments())
	}
	// The probe of a daemon that is there already lies between two tokens of the leader.
	v.Publish(t, tick.tokenQueue(), unsigned(tick, record{done: done.Add(-time.Second), rule: tick.rule()}), signed(tick, record{}), unsigned(tick, record{done: done, rule: tick.rule()}))
	v.Publish(t, seed.tokenQueue(), unsigned(seed, record{versions: []string{"v1"}}))

	r := runScheduled(t, v.URL, "v1", tick, seed)
	awaitLeader(t, r)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "jobs") >= 7 }, "it goes on")
	equal(t, strings.Count(r.log.String(), "goes on from the record of an earlier release"), 3)

	// And now the user changes.
	other := runScheduled(t, v.AddUser(t, "successor", "pw", ".*", ".*", ".*"), "v1", tick, seed)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Unacked(t, seed.tokenQueue()) == 1 && contains(r.log, "does not come from") }, "it has sent a probe")
	r.end()
	awaitLeader(t, other)
	before := v.Ready(t, "jobs")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "jobs") >= before+3 }, "the other user's goes on")
	other.end()

	got := firings(t, v, "jobs", "tick")
	withoutGaps(t, got, time.Second)
	equal(t, got[0], done.Add(time.Second))
	equal(t, v.Ready(t, "seeds"), 0)

	// An unsigned record from the future counts up to now.
	v.DeleteQueue(t, tick.tokenQueue())
	v.Declare(t, tick.tokenQueue(), broker.TokenArguments())
	v.Publish(t, tick.tokenQueue(), unsigned(tick, record{done: time.Now().Add(time.Hour), rule: tick.rule()}))
	again := runScheduled(t, v.URL, "v1", tick)
	awaitLeader(t, again)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "jobs") >= 2 }, "it fires at once")
}

// Headers that the AMQP library does not read cost their message, not the connection of all
// schedules.
func TestUnreadableHeadersAmongTokens(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	r := runScheduled(t, v.URL, "", s)
	awaitLeader(t, r)
	for _, headers := range [][]byte{rabbittest.RawDeep(40), rabbittest.RawWide(10_000)} {
		rabbittest.RawPublish(t, v.URL, "", s.tokenQueue(), rabbittest.RawProperties(map[string]any{"headers": headers}), nil)
	}
	before := v.Ready(t, "jobs")
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		return v.Ready(t, "jobs") >= before+3 && v.Ready(t, s.tokenQueue()) == 0 && v.Unacked(t, s.tokenQueue()) == 1
	}, "it fires on, and they are gone")
	equal(t, contains(r.log, noConnection), false)
	equal(t, strings.Count(r.log.String(), "msg=\"leads the schedule\""), 1)
	withoutGaps(t, firings(t, v, "jobs", "tick"), time.Second)
}
