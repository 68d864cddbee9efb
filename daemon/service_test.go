package daemon

import (
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/schedule"
)

func TestStatusLine(t *testing.T) {
	now := time.Now()
	one := []consumer.QueueStatus{{Queue: "emails"}}
	three := []consumer.QueueStatus{{Queue: "emails", InFlight: 8, Done: 48000}, {Queue: "reports", InFlight: 4, Done: 211}, {Queue: "hooks"}}
	missing := []consumer.QueueStatus{{Queue: "emails"}, {Queue: "reports", Reason: "queue reports is missing"}}
	for _, c := range []struct {
		status   consumer.Status
		stopping bool
		want     string
	}{
		{consumer.Status{Queues: one}, false, "1 queue, 0 in flight, 0 done"},
		{consumer.Status{Queues: three}, false, "3 queues, 12 in flight, 48,211 done"},
		{consumer.Status{Queues: three}, true, "stopping: 3 queues, 12 in flight, 48,211 done"},
		{consumer.Status{Queues: missing}, false, "2 queues, 0 in flight, 0 done, reports is not consumed: queue reports is missing"},
		{consumer.Status{Queues: one, Schedules: []schedule.Status{{Schedule: "a", Leading: true}, {Schedule: "b", Fault: "there is no queue x"}}}, false,
			"1 queue, 0 in flight, 0 done, schedule b: there is no queue x"},
		{consumer.Status{Queues: []consumer.QueueStatus{{Queue: "emails", BrakedAt: now.Add(-time.Minute), Fault: "connection refused"}}}, false,
			"1 queue, 0 in flight, 0 done, emails is braked for 1m0s: connection refused"},
		{consumer.Status{Queues: []consumer.QueueStatus{{Queue: "emails", Paused: &fleet.Pause{By: "alice (vm1)", Why: "mail server moves", Since: now.Add(-time.Minute)}}}}, false,
			"1 queue, 0 in flight, 0 done, emails is paused for 1m0s by alice (vm1): mail server moves"},
		{consumer.Status{Queues: []consumer.QueueStatus{{Queue: "emails", Quiet: &fleet.Pause{By: "alice (vm1)", Since: now.Add(-time.Minute)}}, {Queue: "x", Quiet: &fleet.Pause{}, Paused: &fleet.Pause{}}}}, false,
			"2 queues, 0 in flight, 0 done, quiet for 1m0s by alice (vm1), x is paused by somebody"},
		{consumer.Status{Queues: one, Connection: consumer.ConnectionStatus{LostAt: now}}, false, "1 queue, 0 in flight, 0 done, connecting for 0 s"},
		{
			consumer.Status{Queues: one, Connection: consumer.ConnectionStatus{LostAt: now.Add(-14 * time.Second), Node: "mq2:5672", Fault: "connection refused"}},
			false, "1 queue, 0 in flight, 0 done, connecting to mq2:5672 for 14 s: connection refused",
		},
		{
			consumer.Status{Queues: missing, Connection: consumer.ConnectionStatus{LostAt: now.Add(-14 * time.Second), Node: "mq2:5672", Reconnecting: true}},
			false, "2 queues, 0 in flight, 0 done, reconnecting to mq2:5672 for 14 s",
		},
	} {
		if got := statusLine(c.status, c.stopping, now); got != c.want {
			t.Errorf("status: got %q, want %q", got, c.want)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 48211: "48,211", 123456: "123,456", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
