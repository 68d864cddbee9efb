package database

import (
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// A daemon that is told to stop deletes what it has published, and leaves the rest.
func TestStoppingInTheMiddleOfTheOutbox(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	d := migrated(t, pgtest.URL(t))
	v.Declare(t, "out", nil)
	const n = 200_000
	d.exec(t, "INSERT INTO warren.outbox (routing_key, body) SELECT 'out', generate_series(1, $1)", n)
	stop := consume(t, v.URL, d, new(logBuffer), idle)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return d.pending(t) < n }, "some are published")
	stop()
	left := d.pending(t)
	if ready := v.Ready(t, "out"); left == 0 || ready != n-left {
		t.Errorf("got %d messages published and %d left, want all %d, each in one place", ready, left, n)
	}
}

// While the broker takes no messages the relay waits; a stop does not wait for the
// broker.
func TestTheRelayWaitsForABrokerWithAnAlarm(t *testing.T) {
	v := rabbittest.NewVhost(t)
	d := migrated(t, pgtest.URL(t))
	v.Declare(t, "out", nil)
	var log logBuffer
	stop := consume(t, v.URL, d, &log, idle)
	d.exec(t, "INSERT INTO warren.outbox (routing_key) VALUES ('out')")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return d.pending(t) == 0 }, "the first is published")
	if err := v.Node.MemoryAlarm(true); err != nil {
		t.Fatal(err)
	}
	d.exec(t, "INSERT INTO warren.outbox (routing_key, body) SELECT 'out', repeat('x', 100000) FROM generate_series(1, 400)")
	rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Contains(log.String(), "the outbox is not published for now") }, "the alarm is known")
	begun := time.Now()
	stop()
	if took := time.Since(begun); took > rabbittest.Soon {
		t.Errorf("stopped after %v, want soon", took)
	}
	if err := v.Node.MemoryAlarm(false); err != nil {
		t.Fatal(err)
	}
	consume(t, v.URL, d, &log, idle)
	rabbittest.Eventually(t, 30*time.Second, func() bool { return d.pending(t) == 0 && v.Ready(t, "out") >= 401 }, "all are published")
}
