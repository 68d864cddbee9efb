package schedule

import (
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

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

// All schedules share a connection; a fault of the one's channel is nothing to the other.
func TestSchedulesShareAConnection(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
