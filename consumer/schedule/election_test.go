package schedule

import (
	"fmt"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestLeadersFollowEachOther runs three, stops the leader, and then the next.
func TestLeadersFollowEachOther(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	withoutGaps(t, firingsOfTwo(t, v), time.Second)
}

// TestALeaderThatIsDeposedUnawares takes the leader off the queue without its channel
// hearing of it, as a node does that the others take for dead. It fires nothing more.
func TestALeaderThatIsDeposedUnawares(t *testing.T) {
	t.Parallel()
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
	withoutGaps(t, firingsOfTwo(t, v), time.Second)
}

// firingsOfTwo are those of a leader that was cut off, and of the next one: the last of the
// first may be there twice, which it could not record any more.
func firingsOfTwo(t *testing.T, v *rabbittest.Vhost) []time.Time {
	t.Helper()
	planned, repeats := repeatedFirings(t, v, "jobs", "tick")
	if len(repeats) > 1 {
		t.Errorf("%q are there twice, want one at most", repeats)
	}
	return planned
}

// Daemons that do not agree on the rule say so, whoever leads.
func TestTwoRulesOfOneSchedule(t *testing.T) {
	t.Parallel()
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
