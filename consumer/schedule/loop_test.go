package schedule

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// A running is a Runner at work in a test.
type running struct {
	*Runner
	log  *logBuffer
	stop context.CancelFunc
	done chan struct{}
}

// runScheduled runs a Runner of the schedules on a node.
func runScheduled(t *testing.T, url, version string, schedules ...Schedule) *running {
	t.Helper()
	return runConfig(t, url, Config{Version: version, Schedules: schedules}, nil)
}

func runConfig(t *testing.T, url string, cfg Config, change func(*Runner)) *running {
	t.Helper()
	r := &running{log: &logBuffer{}, done: make(chan struct{})}
	var err error
	if r.Runner, err = New(cfg, slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r.Runner)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() {
		r.Run(ctx, context.WithoutCancel(ctx))
		close(r.done)
	}()
	r.Offer(url)
	t.Cleanup(func() {
		r.end()
		if t.Failed() {
			t.Logf("the log:\n%s", r.log)
		}
	})
	return r
}

// end stops the Runner and returns how long that took.
func (r *running) end() time.Duration {
	start := time.Now()
	r.stop()
	<-r.done
	return time.Since(start)
}

// leading tells whether the Runner leads all of its schedules.
func (r *running) leading() bool {
	for _, s := range r.Status() {
		if !s.Leading {
			return false
		}
	}
	return true
}

func awaitLeader(t *testing.T, among ...*running) *running {
	t.Helper()
	var leader *running
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		for _, r := range among {
			if r.leading() {
				leader = r
			}
		}
		return leader != nil
	}, "somebody leads")
	return leader
}

// firings drains the queue and checks that each message is one of the schedule, and
// there but once. It returns the planned times.
func firings(t *testing.T, v *rabbittest.Vhost, queue, schedule string) []time.Time {
	t.Helper()
	var out []time.Time
	seen := make(map[string]bool)
	for _, d := range v.Drain(t, queue) {
		ms, _ := d.Headers["x-warren-scheduled-for"].(int64)
		planned := time.UnixMilli(ms).UTC()
		if d.Headers["x-warren-schedule"] != schedule || d.MessageId != schedule+"@"+planned.Format(time.RFC3339) || d.DeliveryMode != amqp.Persistent {
			t.Errorf("a message %q with %v, which is no firing of %s", d.MessageId, d.Headers, schedule)
		}
		if seen[d.MessageId] {
			t.Errorf("%s is there twice", d.MessageId)
		}
		seen[d.MessageId] = true
		out = append(out, planned)
	}
	return out
}

// withoutGaps checks that the times follow each other.
func withoutGaps(t *testing.T, times []time.Time, every time.Duration) {
	t.Helper()
	for i := 1; i < len(times); i++ {
		if times[i].Sub(times[i-1]) != every {
			t.Errorf("after %v comes %v", times[i-1], times[i])
		}
	}
}

// TestLeadersFollowEachOther runs three, stops the leader, and then the next.
func TestLeadersFollowEachOther(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	all := []*running{runScheduled(t, v.URL, "", s), runScheduled(t, v.URL, "", s), runScheduled(t, v.URL, "", s)}
	for len(all) > 0 {
		leader := awaitLeader(t, all...)
		before := v.Ready(t, "jobs")
		rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "jobs") >= before+2 }, "two firings")
		for i, r := range all {
			if r == leader {
				all = append(all[:i:i], all[i+1:]...)
				break
			}
		}
		for _, r := range all {
			if r.leading() {
				t.Error("there are two leaders")
			}
		}
		if took := leader.end(); took > rabbittest.Soon {
			t.Errorf("the leader has ended after %v", took)
		}
		if len(all) > 0 {
			start := time.Now()
			awaitLeader(t, all...)
			t.Logf("the next one leads %v later", time.Since(start).Round(time.Millisecond))
		}
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "warren.schedule.tick") == 1 }, "the token waits for whoever comes")
	before := v.Ready(t, "jobs")
	<-time.After(3 * time.Second)
	equal(t, v.Ready(t, "jobs"), before)
	runScheduled(t, v.URL, "", s)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "jobs") >= before+4 }, "what was missed is made up for")
	withoutGaps(t, firings(t, v, "jobs", "tick"), time.Second)
}

// TestALeaderThatVanishes freezes the way of all that the leader sends.
func TestALeaderThatVanishes(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	first := runScheduled(t, v.URLAt(p.Addr), "", s)
	awaitLeader(t, first)
	second := runScheduled(t, v.URL, "", s)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "jobs") >= 2 }, "two firings")
	start := time.Now()
	p.Stall(rabbittest.ToNode | rabbittest.FromNode)
	awaitLeader(t, second)
	took := time.Since(start)
	t.Logf("the next one leads after %v", took.Round(time.Millisecond))
	if took > rabbittest.Soon {
		t.Errorf("the next one leads after %v, want soon", took)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return !first.leading() }, "the first knows that it leads no longer")
	p.Restore(t)
	before := v.Ready(t, "jobs")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "jobs") >= before+3 }, "three firings")
	withoutGaps(t, firings(t, v, "jobs", "tick"), time.Second)
}

// TestALeaderThatIsDeposedUnawares takes the leader off the queue without its channel
// hearing of it, as a node does that the others take for dead. It fires nothing more.
func TestALeaderThatIsDeposedUnawares(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	first := runScheduled(t, v.URL, "", s)
	awaitLeader(t, first)
	second := runScheduled(t, v.URL, "", s)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "jobs") >= 2 }, "two firings")
	start := time.Now()
	if _, err := v.Node.Eval(fmt.Sprintf(`{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"%s">>)),
		{ok, {_, {value, Active}}, _} = ra:leader_query(amqqueue:get_pid(Q), {rabbit_fifo, query_single_active_consumer, []}),
		{ok, _, _} = ra:process_command(amqqueue:get_pid(Q), rabbit_fifo:make_checkout(Active, cancel, #{})), ok`, v.Name, s.tokenQueue())); err != nil {
		t.Fatal(err)
	}
	awaitLeader(t, second)
	t.Logf("the next one leads after %v", time.Since(start).Round(time.Millisecond))
	rabbittest.Eventually(t, 10*time.Second, func() bool { return !first.leading() }, "the first knows that it leads no longer")
	rabbittest.Eventually(t, 5*time.Second, func() bool { return contains(first.log, "did not hand back the schedule's own token") }, "its log says why")
	before := v.Ready(t, "jobs")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "jobs") >= before+3 }, "three firings")
	withoutGaps(t, firings(t, v, "jobs", "tick"), time.Second)
}

func TestOncePerVersion(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "seed", Once: true, Queue: "jobs"}
	ids := func() []string {
		var out []string
		for _, d := range v.Drain(t, "jobs") {
			out = append(out, d.MessageId)
		}
		return out
	}
	generation := func(version string, n int, known string) {
		var all []*running
		for range n {
			all = append(all, runScheduled(t, v.URL, version, s))
		}
		leader := awaitLeader(t, all...)
		rabbittest.Eventually(t, 5*time.Second, func() bool { return contains(leader.log, known) }, "it has fired, or knows that it has")
		for _, r := range all {
			r.end()
		}
	}
	generation("v1", 3, "msg=fired")
	equal(t, ids(), []string{"seed@v1"})
	generation("v1", 1, "versions_fired=[v1]")
	equal(t, ids(), nil)
	generation("v2", 3, "msg=fired")
	equal(t, ids(), []string{"seed@v2"})
	generation("v1", 2, "versions_fired=\"[v1 v2]\"") // a rollback
	equal(t, ids(), nil)
}

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

// awayFromEdge is a duration of about an hour of which no multiple is within five
// minutes from now.
func awayFromEdge(now time.Time) time.Duration {
	for d := time.Hour; ; d += time.Minute {
		if since := now.Sub(every(d).next(now).Add(-d)); since > 5*time.Minute && since < d-5*time.Minute {
			return d
		}
	}
}

func TestMisfires(t *testing.T) {
	v := rabbittest.NewVhost(t)
	now := time.Now().UTC()
	hour := awayFromEdge(now)
	last := every(hour).next(now).Add(-hour)
	for _, c := range []struct {
		misfire string
		want    []time.Time
		log     bool
	}{
		{MisfireSkip, nil, true},
		{MisfireOnce, []time.Time{last}, true},
		{MisfireAll, []time.Time{last.Add(-2 * hour), last.Add(-hour), last}, false},
	} {
		s := Schedule{Name: "late-" + c.misfire, Every: hour, Queue: "jobs-" + c.misfire, Misfire: c.misfire}
		v.Declare(t, s.Queue, nil)
		done := record{done: last.Add(-3 * hour), rule: s.rule()}
		// The token that knows more lies behind others, as a leader leaves them that dies
		// between a firing and its acknowledgement.
		seasoned(t, v, s, record{}, record{done: done.done.Add(-hour), rule: s.rule()}, done)
		r := runScheduled(t, v.URL, "", s)
		awaitLeader(t, r)
		rabbittest.Eventually(t, 5*time.Second, func() bool {
			return r.Status()[0].Next.Equal(last.Add(hour)) && v.Ready(t, s.Queue) == len(c.want)
		}, "what is missed is made up for, as far as is meant")
		r.end()
		equal(t, firings(t, v, s.Queue, s.Name), c.want)
		const missed = "planned times of the schedule have passed without a firing"
		equal(t, contains(r.log, missed), c.log)

		again := runScheduled(t, v.URL, "", s)
		awaitLeader(t, again)
		equal(t, contains(again.log, missed), false)
		equal(t, v.Ready(t, s.Queue), 0)
		equal(t, v.Unacked(t, s.tokenQueue()), 1) // of all the tokens
	}
}

// TestAnotherRule: what another rule has left undone was never planned by this one.
func TestAnotherRule(t *testing.T) {
	v := rabbittest.NewVhost(t)
	now := time.Now().UTC()
	hour := awayFromEdge(now)
	s := Schedule{Name: "changed", Every: hour, Queue: "jobs", Misfire: MisfireAll}
	v.Declare(t, "jobs", nil)
	seasoned(t, v, s, record{done: now.Add(-10 * hour).Truncate(time.Second), rule: "every 24h0m0s"})
	r := runScheduled(t, v.URL, "", s)
	awaitLeader(t, r)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return r.Status()[0].Next.Equal(every(hour).next(now)) }, "the next one is the new rule's")
	if !contains(r.log, `another rule from now on" schedule=changed was="every 24h0m0s"`) {
		t.Error("the log does not say so")
	}
	r.end()
	equal(t, v.Ready(t, "jobs"), 0)
	equal(t, recordOf(&v.Drain(t, s.tokenQueue())[0], now).rule, s.rule())
}

func TestScheduleOfAMissingQueue(t *testing.T) {
	v := rabbittest.NewVhost(t)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll, EnvPrefix: "WARREN_SCHEDULE_TICK_"}
	r := runScheduled(t, v.URL, "", s)
	const fault = "there is no queue jobs: declare it, or name another one in WARREN_SCHEDULE_TICK_QUEUE"
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.Status()[0].Fault == fault }, "it says what is missing")
	lag := func() time.Duration { return r.loops[0].state.lag(time.Now()) }
	rabbittest.Eventually(t, 10*time.Second, func() bool { return lag() > 3*time.Second }, "it lags")
	v.Declare(t, "jobs", nil)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return lag() < 2*time.Second && r.Status()[0].Fault == "" }, "it has caught up")
	if n := strings.Count(r.log.String(), "cannot fire the schedule"); n != 1 || !contains(r.log, "the schedule fires again") {
		t.Errorf("the log says %d times that it cannot be fired, want once, and that it can", n)
	}
	r.end()
	got := firings(t, v, "jobs", "tick")
	withoutGaps(t, got, time.Second)
	if len(got) < 4 {
		t.Errorf("%d firings, want those that were missed, too", len(got))
	}
}

// A queue that Warren declares is declared again.
func TestScheduleOfAQueueThatIsDeleted(t *testing.T) {
	v := rabbittest.NewVhost(t)
	q := broker.Queue{Name: "jobs", Type: broker.Quorum, RetryMax: time.Second}
	r := runConfig(t, v.URL, Config{Queues: []broker.Queue{q}, Schedules: []Schedule{{Name: "tick", Every: time.Second, Queue: "jobs"}}}, nil)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.loops[0].state.fired.Load() > 0 }, "it fires")
	v.DeleteQueue(t, "jobs")
	before := r.loops[0].state.fired.Load()
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.loops[0].state.fired.Load() > before+1 }, "it fires again")
	equal(t, r.Status()[0].Fault, "")
	equal(t, contains(r.log, "cannot fire"), false)
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
	v.DeleteQueue(t, s.tokenQueue())
	goesOn("it fires after its queue was deleted")
	withoutGaps(t, firings(t, v, "jobs", "tick"), time.Second)

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

func TestScheduleUnderAMemoryAlarm(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	r := runScheduled(t, v.URL, "", Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "jobs") > 0 }, "it fires")
	if err := v.Node.MemoryAlarm(true); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return contains(r.log, "the schedule waits") }, "it waits")
	before := v.Ready(t, "jobs")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.loops[0].state.lag(time.Now()) > 7*time.Second }, "it lags")
	equal(t, v.Ready(t, "jobs"), before)
	if err := v.Node.MemoryAlarm(false); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "jobs") >= before+8 }, "it has caught up")
	if strings.Count(r.log.String(), "the schedule waits") != 1 || !contains(r.log, "takes messages of the schedule again") {
		t.Error("the log does not say when it waits, and when no longer, once each")
	}
	withoutGaps(t, firings(t, v, "jobs", "tick"), time.Second)
}

// A record from a host whose clock is ahead is heeded, not silently.
func TestARecordAheadOfTheClock(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs"}
	seasoned(t, v, s, record{done: time.Now().Add(12 * time.Second).Truncate(time.Second).UTC(), rule: s.rule()})
	r := runScheduled(t, v.URL, "", s)
	rabbittest.Eventually(t, 5*time.Second, func() bool {
		return contains(r.log, "lies ahead of this host's clock") && contains(r.log, "delete the queue warren.schedule.tick")
	}, "it says so")
	equal(t, v.Ready(t, "jobs"), 0)
	status := r.Status()[0]
	if !strings.Contains(status.Fault, "ahead of this host's clock") || status.Ahead < time.Second || status.Ahead > 12*time.Second {
		t.Errorf("the status is %+v", status)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "jobs") > 0 }, "it fires when it is time")
	equal(t, contains(r.log, "agrees with the last planned time again"), true)
	equal(t, r.Status()[0].Ahead, 0)
}

// What keeps the queue of the tokens from being declared is said with a remedy that there
// is.
func TestDeclareSaysWhatSettlesIt(t *testing.T) {
	v := rabbittest.NewVhost(t)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "other"}
	v.Declare(t, "warren.schedule.differs", nil)
	for _, c := range []struct {
		user, name string
		passive    bool
		want       string
	}{
		{"^other$", "tick", false, "grant it with rabbitmqctl set_permissions, or declare it elsewhere and set WARREN_QUEUE_<NAME>_DECLARE=false for every queue"},
		{".*", "differs", false, "stop all daemons that have the schedule and delete the queue"},
		{".*", "tick", true, "or set WARREN_QUEUE_<NAME>_DECLARE=true for one of the queues"},
		{".*", "tick", false, ""},
		{"^other$", "tick", true, ""}, // declared elsewhere
	} {
		url := v.AddUser(t, rand.Text(), "pw", c.user, ".*", ".*")
		conn, err := broker.Dialer{}.Dial(t.Context(), url, broker.Options{Purpose: "test"})
		if err != nil {
			t.Fatal(err)
		}
		s.Name = c.name
		r, err := New(Config{Schedules: []Schedule{s}, Passive: c.passive}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got := errorText(r.Declare(conn)); !strings.Contains(got, c.want) || got == "" != (c.want == "") {
			t.Errorf("%+v: got error %q", c, got)
		}
		conn.Close()
	}
}

// TestABacklogOfFirings makes up for a thousand, each once.
func TestABacklogOfFirings(t *testing.T) {
	const n = 1000
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	seasoned(t, v, s, record{done: time.Now().Add(-n * time.Second).Truncate(time.Second).UTC(), rule: s.rule()})
	start := time.Now()
	r := runScheduled(t, v.URL, "", s)
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "jobs") >= n }, "it has caught up")
	t.Logf("%d firings in %v", n, time.Since(start).Round(time.Millisecond))
	r.end()
	withoutGaps(t, firings(t, v, "jobs", "tick"), time.Second)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, s.tokenQueue()) == 1 }, "one token is left")
}

// TestTokensOfOthers has somebody who may publish to every queue try to silence a schedule,
// to have it begin in 1970, and to break its leader, while one leads and as another takes
// over.
func TestTokensOfOthers(t *testing.T) {
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

// Daemons that do not agree on the rule say so, whoever leads.
func TestTwoRulesOfOneSchedule(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	a := runScheduled(t, v.URL, "", Schedule{Name: "tick", Every: time.Second, Queue: "jobs"})
	awaitLeader(t, a)
	b := runScheduled(t, v.URL, "", Schedule{Name: "tick", Cron: "0 2 * * *", Queue: "jobs"})
	rabbittest.Eventually(t, 5*time.Second, func() bool {
		return contains(a.log, `another daemon has another rule of the schedule`) && contains(a.log, `its="cron 0 2 * * * (UTC)" own="every 1s"`)
	}, "the leader says so")
	a.end()
	awaitLeader(t, b)
	equal(t, contains(b.log, `level=WARN msg="the schedule follows another rule from now on" schedule=tick was="every 1s" is="cron 0 2 * * * (UTC)"`), true)
}

// TestAQueueThatRefuses: whoever cannot publish leaves it to another to try.
func TestAQueueThatRefuses(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", amqp.Table{amqp.QueueTypeArg: "classic", amqp.QueueMaxLenArg: 1, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish})
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	quick := func(r *Runner) { r.loops[0].timeouts.refused, r.loops[0].patience = time.Second, time.Second }
	start := func() *running { return runConfig(t, v.URL, Config{Schedules: []Schedule{s}}, quick) }
	a, b := start(), start()
	for _, r := range []*running{a, b, a} {
		awaitLeader(t, r)
		rabbittest.Eventually(t, 20*time.Second, func() bool { return !r.leading() }, "the next one may try")
		equal(t, contains(r.log, "cannot fire the schedule, trying again"), true)
		equal(t, contains(r.log, "cannot take part"), false)
	}
	fired := func() int64 { return a.loops[0].state.fired.Load() + b.loops[0].state.fired.Load() }
	before := fired()
	rabbittest.Eventually(t, time.Minute, func() bool {
		v.Drain(t, "jobs")
		return fired() >= before+5
	}, "it fires again when there is room")
}

// All schedules share a connection; a fault of the one's channel is nothing to the other.
func TestSchedulesShareAConnection(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	p, q := rabbittest.NewProxy(t, v.Node.Addr()), rabbittest.NewProxy(t, v.Node.Addr())
	v.Declare(t, "warren.schedule.c", nil) // of the wrong kind
	var all []Schedule
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, Schedule{Name: name, Every: time.Second, Queue: "jobs"})
	}
	r := runScheduled(t, v.URLAt(p.Addr), "", all...)
	leads := func(n int) bool { return strings.Count(r.log.String(), "msg=\"leads the schedule\"") == n }
	rabbittest.Eventually(t, 10*time.Second, func() bool { return leads(2) && contains(r.log, "exists with another") }, "two lead, and the third cannot")
	connections, _, err := v.Node.Connections(v.Name)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, connections, 1)
	v.DeleteQueue(t, "warren.schedule.a")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return leads(3) }, "a leads again")
	equal(t, contains(r.log, "leads the schedule no longer\" schedule=b"), false)

	// One cannot take part, and there is another node: perhaps it can there.
	r.Offer(v.URLAt(q.Addr))
	rabbittest.Eventually(t, 10*time.Second, func() bool { return leads(5) }, "both lead there")
	p.Cut()
	p.Refuse()
	v.DeleteQueue(t, "warren.schedule.c")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return leads(6) }, "all lead")
	equal(t, contains(r.log, noConnection), false)

	q.Cut()
	rabbittest.Eventually(t, 10*time.Second, func() bool { return leads(9) }, "all lead with a new connection")
	equal(t, strings.Count(r.log.String(), noConnection), 1)
	equal(t, contains(r.log, "the schedules are connected again"), true)
}

// TestTheEndUnderAnAlarm ends while nothing is taken, with a term that cannot begin.
func TestTheEndUnderAnAlarm(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	r := runScheduled(t, v.URL, "", Schedule{Name: "a", Every: time.Second, Queue: "jobs"}, Schedule{Name: "b", Every: time.Hour, Queue: "jobs"})
	awaitLeader(t, r)
	if err := v.Node.MemoryAlarm(true); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return strings.Count(r.log.String(), "the schedule waits") == 2 }, "both wait")
	v.DeleteQueue(t, "warren.schedule.b")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return contains(r.log, "leads the schedule no longer\" schedule=b") }, "one has lost its term")
	equal(t, r.Healthy(time.Now()), nil)
	if took := r.end(); took > rabbittest.Soon {
		t.Errorf("the end took %v", took)
	}
	if err := v.Node.MemoryAlarm(false); err != nil {
		t.Fatal(err)
	}
}

// Connections that are lost as soon as they are made are not made as fast as can be.
func TestConnectionsThatDieYoung(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	p := rabbittest.NewProxy(t, v.Node.Addr())
	r := runScheduled(t, v.URLAt(p.Addr), "", Schedule{Name: "tick", Every: time.Second, Queue: "jobs"})
	awaitLeader(t, r)
	start, connected := time.Now(), 0
	p.Cut()
	rabbittest.Eventually(t, 30*time.Second, func() bool {
		if n := strings.Count(r.log.String(), "the schedules are connected again"); n > connected {
			connected = n
			p.Cut()
		}
		return connected >= 5
	}, "it has connected five times")
	if took := time.Since(start); took < 3*time.Second {
		t.Errorf("five connections were made in %v", took)
	}
	awaitLeader(t, r)
}

// Headers that the AMQP library does not read cost their message, not the connection of all
// schedules.
func TestUnreadableHeadersAmongTokens(t *testing.T) {
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
