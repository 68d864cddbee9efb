package daemon

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/systemd"
	"github.com/warrenmq/warren/telemetry"
)

// service is what systemd is told of the consumer, until ctx ends and while it then
// stops.
func (d *daemon) service(ctx context.Context) systemd.Daemon {
	return systemd.Daemon{
		Ready: func() bool {
			ready := d.readiness().Ready()
			d.started.Store(ready) // it is not asked again when it has been
			return ready
		},
		Status: func() string {
			line := statusLine(d.consumer.Status(), ctx.Err() != nil, time.Now())
			if d.database != nil && d.database.Reason() != "" {
				line += ", the database cannot be used: " + d.database.Reason()
			}
			return line
		},
		Healthy:     d.consumer.Healthy,
		StopTimeout: d.Consumer.ShutdownTimeout,
	}
}

// readiness is what being ready consists of: each queue is being consumed, and the
// database, if there is one, can be used. A braked queue is ready: it is looked after, and
// another daemon could do no better. Nor is one unready that operators have left alone.
func (d *daemon) readiness() telemetry.Readiness {
	var out telemetry.Readiness
	now := time.Now()
	for _, q := range d.consumer.Status().Queues {
		out.Queues = append(out.Queues, telemetry.Check{
			Name: q.Queue, Ready: q.Reason == "", Reason: q.Reason, Paused: halted(q.Paused, now), Quiet: halted(q.Quiet, now), Braked: braked(q, now),
		})
	}
	if d.database != nil {
		reason := d.database.Reason()
		out.Database = &telemetry.Check{Ready: reason == "", Reason: reason}
	}
	return out
}

// statusLine is for systemctl status: 3 queues, 12 in flight, 48,211 done, reconnecting
// to mq2:5672 for 14 s: connection refused.
func statusLine(s consumer.Status, stopping bool, now time.Time) string {
	var inFlight, done int
	var unwell []string
	if len(s.Queues) > 0 && s.Queues[0].Quiet != nil {
		unwell = append(unwell, "quiet "+halted(s.Queues[0].Quiet, now))
	}
	for _, q := range s.Queues {
		inFlight += q.InFlight
		done += q.Done
		if q.Reason != "" {
			unwell = append(unwell, fmt.Sprintf("%s is not consumed: %s", q.Queue, q.Reason))
		} else if p := halted(q.Paused, now); p != "" {
			unwell = append(unwell, q.Queue+" is paused "+p)
		} else if b := braked(q, now); b != "" {
			unwell = append(unwell, q.Queue+" is braked "+b)
		}
	}
	for _, f := range s.Schedules {
		if f.Fault != "" {
			unwell = append(unwell, fmt.Sprintf("schedule %s: %s", f.Schedule, f.Fault))
		}
	}
	queues := "1 queue"
	if len(s.Queues) != 1 {
		queues = fmt.Sprintf("%d queues", len(s.Queues))
	}
	line := fmt.Sprintf("%s, %s in flight, %s done", queues, thousands(inFlight), thousands(done))
	c := s.Connection
	switch {
	case stopping:
		line = "stopping: " + line
	case !c.LostAt.IsZero():
		line += ", " + connecting(c, now)
	case len(unwell) > 0:
		line += ", " + strings.Join(unwell, ", ")
	}
	return line
}

// braked says for how long a queue has been braked, and why; empty if it is not.
func braked(q consumer.QueueStatus, now time.Time) string {
	if q.BrakedAt.IsZero() {
		return ""
	}
	return fmt.Sprintf("for %v: %s", now.Sub(q.BrakedAt).Round(time.Second), q.Fault)
}

// halted says for how long queues have been left alone, by whom and why; empty if they
// are not.
func halted(p *fleet.Pause, now time.Time) string {
	if p == nil {
		return ""
	}
	return p.Text(now)
}

// connecting says for how long there has been no connection, and why.
func connecting(c consumer.ConnectionStatus, now time.Time) string {
	line := "connecting"
	if c.Reconnecting {
		line = "reconnecting"
	}
	if c.Node != "" {
		line += " to " + c.Node
	}
	line += fmt.Sprintf(" for %.0f s", now.Sub(c.LostAt).Seconds())
	if c.Fault != "" {
		line += ": " + c.Fault
	}
	return line
}

// thousands is n, which is not negative, with a comma before every three digits.
func thousands(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
