package fleet

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// What stands out is said, and nothing is of a fleet that is well.
func TestNotes(t *testing.T) {
	now := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	daemon := func(n int, version string, queues ...QueueStatus) Answer {
		return Answer{Daemon: Daemon{Host: fmt.Sprintf("vm%d", n), PID: 7, Version: version}, Status: &Status{At: now, Queues: queues}}
	}
	emails := QueueStatus{Queue: "emails", Settings: "aaaa"}
	well := []Answer{daemon(1, "v1", emails), daemon(2, "v1", emails)}
	if got := Notes(well, []QueueState{{Queue: "emails", Consumers: 2}}, now); len(got) != 0 {
		t.Errorf("of a fleet that is well: got %q, want nothing", got)
	}

	busy := emails
	busy.InFlight = 3
	atWork := []Answer{daemon(1, "v1", busy), daemon(2, "v1", emails)}
	if got := Notes(atWork, []QueueState{{Queue: "emails", Consumers: 3}}, now); len(got) != 0 {
		t.Errorf("of a daemon with a delivery of the consumer that it had before: got %q, want nothing", got)
	}

	other, braked, away := emails, emails, emails
	other.Settings = "bbbb"
	braked.BrakedSince, braked.Fault = now.Add(-time.Minute), "connection refused"
	away.Reason = "queue emails is missing"
	slow := QueueStatus{Queue: "slow", InFlight: 2, Slots: 2, Attempts: []Attempt{{MessageID: "m", InVain: 7}, {MessageID: "n"}}}
	quiet := daemon(3, "v2", other)
	quiet.Status.Quiet = &Pause{By: "ops (vm9)", Since: now.Add(-time.Hour), Why: "deploy"}
	fleet := []Answer{daemon(1, "v1", emails), daemon(2, "v1", braked), quiet, daemon(4, "v1", away), daemon(5, "v1", slow), {Daemon: Daemon{Host: "vm6", PID: 7, Version: "v1"}, Error: "x"}}
	want := []string{
		"vm2/7 has emails braked for 1m0s: connection refused",
		"vm3/7 is quiet for 1h0m0s by ops (vm9): deploy",
		"vm4/7 does not consume emails: queue emails is missing",
		"vm5/7 works on m of slow, which was handed out 7 times in vain before: it may end the process",
		"vm5/7 cannot fire schedule nightly: queue reports is missing",
		"vm5/7 fires nothing of schedule hourly for 1h0m0s: what was fired before lies that far ahead of its clock",
		"2 versions: v2 on vm3/7; v1 on 5 daemons",
		"emails is configured in 2 ways: bbbb on vm3/7; aaaa on vm1/7, vm2/7, vm4/7; compare the output of config there",
		"emails has 9 consumers, of which 2 answer: the others are other programs, daemons that are older, busy or not asked, or on a machine that was lost, which the broker finds out within 20 s",
		"there is no queue gone",
		"nobody consumes lonely; 12 messages ready",
		"nobody consumes lone; 1 message ready",
		"held has 1 consumer, of which 0 answer: the others are other programs, daemons that are older, busy or not asked, or on a machine that was lost, which the broker finds out within 20 s",
		"moves is paused for 1h0m0s by somebody; 1 message ready",
		"emails does not say how many messages it has, nor that daemons consume it (2): it may have no leader, or its node is too busy; see rabbitmq-queues quorum_status emails",
		"slow: all 2 slots (daemons: 1) are busy, and 20 messages ready: more comes than is done",
	}
	fleet[4].Status.Schedules = []Schedule{{Schedule: "well", Leading: true}, {Schedule: "nightly", Fault: "queue reports is missing"}, {Schedule: "hourly", Leading: true, AheadMillis: 3_600_000}}
	got := Notes(fleet, []QueueState{
		{Queue: "emails", Consumers: 9}, {Queue: "gone", Missing: true}, {Queue: "lonely", Messages: 12}, {Queue: "lone", Messages: 1}, {Queue: "held", Consumers: 1}, {Queue: "moves", Messages: 1, Paused: &Pause{Since: now.Add(-time.Hour)}},
		{Queue: "emails"}, // as the broker says of one whose leader does not answer
		{Queue: "slow", Messages: 20, Consumers: 1},
	}, now)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}
