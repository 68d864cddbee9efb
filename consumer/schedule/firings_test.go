package schedule

import (
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer/internal/digest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

func TestOncePerVersion(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
		rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Unacked(t, s.tokenQueue()) == 1 }, "one is left of all the tokens")
	}
}

// TestAFiringThatIsPublishedTwice finds the token, the second time, as a leader leaves it
// that dies after a firing and before it records it: the inbox takes the second message for
// a repeat of the first.
func TestAFiringThatIsPublishedTwice(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	hour := awayFromEdge(time.Now().UTC())
	for _, s := range []Schedule{
		{Name: "twice", Every: hour, Queue: "jobs-twice"},
		{Name: "twice-once", Once: true, Queue: "jobs-once"},
	} {
		v.Declare(t, s.Queue, nil)
		var digests [][16]byte
		var second int64
		for range 2 {
			// A timestamp of AMQP is in seconds: the second firing is not in that of the first.
			rabbittest.Eventually(t, 5*time.Second, func() bool { return time.Now().Unix() > second }, "it is another second")
			seasoned(t, v, s, record{done: time.Now().Add(-3 * hour).UTC(), rule: s.rule()})
			r := runScheduled(t, v.URL, "v1", s)
			rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, s.Queue) == 1 }, "it has fired")
			second = time.Now().Unix()
			r.end()
			for _, d := range v.Drain(t, s.Queue) {
				digests = append(digests, digest.Of(&d, true))
			}
			v.DeleteQueue(t, s.tokenQueue())
		}
		if len(digests) != 2 || digests[0] != digests[1] {
			t.Errorf("%s: got %x of what was fired twice, want the same two times", s.Name, digests)
		}
	}
}

// TestAnotherRule: what another rule has left undone was never planned by this one.
func TestAnotherRule(t *testing.T) {
	t.Parallel()
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

// A record from a host whose clock is ahead is heeded, not silently.
func TestARecordAheadOfTheClock(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs"}
	seasoned(t, v, s, record{done: time.Now().Add(time.Minute).Truncate(time.Second).UTC(), rule: s.rule()})
	r := runScheduled(t, v.URL, "", s)
	rabbittest.Eventually(t, 5*time.Second, func() bool {
		return contains(r.log, "lies ahead of this host's clock") && contains(r.log, "delete the queue warren.schedule.tick")
	}, "it says so")
	equal(t, v.Ready(t, "jobs"), 0)
	status := r.Status()[0]
	if !strings.Contains(status.Fault, "ahead of this host's clock") || status.Ahead < time.Second || status.Ahead > time.Minute {
		t.Errorf("the status is %+v", status)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "jobs") > 0 }, "it fires when it is time")
	equal(t, contains(r.log, "agrees with the last planned time again"), true)
	equal(t, r.Status()[0].Ahead, 0)
}

// TestTheRemedyOfARecordAheadOfTheClockCures deletes the queue while no daemon runs, as the
// log says.
func TestTheRemedyOfARecordAheadOfTheClockCures(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs"}
	seasoned(t, v, s, record{done: time.Now().Add(24 * time.Hour).Truncate(time.Second).UTC(), rule: s.rule()})
	r := runScheduled(t, v.URL, "", s)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return contains(r.log, "delete the queue warren.schedule.tick while no daemon runs") }, "it says so")
	r.end()
	equal(t, v.Ready(t, "jobs"), 0)
	v.DeleteQueue(t, "warren.schedule.tick")
	runScheduled(t, v.URL, "", s)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "jobs") > 0 }, "it fires")
}
