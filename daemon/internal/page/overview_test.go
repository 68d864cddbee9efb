package page

import (
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
)

// TestHowAQueueStands has the page say of a queue what is worst of it.
func TestHowAQueueStands(t *testing.T) {
	two := fleet.QueueSum{Queue: "orders", Daemons: 2, Slots: 4}
	sum := func(change func(*fleet.QueueSum)) fleet.QueueSum {
		s := two
		change(&s)
		return s
	}
	seen := func(messages, consumers int) queueLengths {
		return queueLengths{QueueState: fleet.QueueState{Queue: "orders", Messages: messages, Consumers: consumers}, seen: true}
	}
	for _, test := range []struct {
		name                  string
		sum                   fleet.QueueSum
		lengths               queueLengths
		state, level, because string
	}{
		{"idle", two, seen(0, 2), "idle", "ok", "consumed by 2 daemons"},
		{"at work", sum(func(s *fleet.QueueSum) { s.InFlight = 1 }), seen(9, 2), "working", "ok", "consumed by 2 daemons"},
		{"not looked at yet", fleet.QueueSum{Queue: "orders"}, queueLengths{}, "not known yet", "idle", ""},
		{"gone", two, queueLengths{QueueState: fleet.QueueState{Missing: true}, seen: true}, "missing", "bad", "no such queue"},
		{"of no daemon", fleet.QueueSum{Queue: "orders"}, seen(0, 0), "nobody", "bad", "nobody consumes it"},
		{"no longer consumed", two, seen(9, 0), "nobody", "bad", "nobody consumes it"},
		{"without a leader, but its daemons do not know yet", two, seen(0, 0), "no answer", "bad", "rabbitmq-queues quorum_status orders"},
		{"given up by its daemons", sum(func(s *fleet.QueueSum) { s.Unwell = 2 }), seen(0, 0), "not consumed", "bad", "refused, and on 1 more"},
		{"left alone by its daemons", sum(func(s *fleet.QueueSum) { s.Quiet = 2 }), seen(0, 0), "quiet", "warn", "told to take nothing"},
		{"given up or left alone", sum(func(s *fleet.QueueSum) { s.Quiet, s.Unwell = 1, 1 }), seen(0, 0), "nobody", "bad", "nobody consumes it"},
		{"paused", sum(func(s *fleet.QueueSum) { s.Paused = &fleet.Pause{By: "ops"} }), seen(0, 0), "paused", "warn", "by ops"},
		{"of others", fleet.QueueSum{Queue: "orders"}, seen(0, 3), "others", "idle", "3 consumers"},
	} {
		row := queueRow{Queue: "orders", QueueSum: test.sum}
		row.judge(test.lengths, []string{"vm1/7: refused", "vm2/9: refused"}, time.Now())
		if row.State != test.state || row.Level != test.level || !strings.Contains(row.Reason, test.because) {
			t.Errorf("a queue %s is %q (%s): %q; want %q (%s), with %q", test.name, row.State, row.Level, row.Reason, test.state, test.level, test.because)
		}
	}
}
