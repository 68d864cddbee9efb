package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/systemd"
	"github.com/warrenmq/warren/telemetry"
)

// service is what systemd is told of the consumer, until ctx ends and while it then
// stops.
func service(ctx context.Context, c *consumer.Consumer, shutdownTimeout time.Duration) systemd.Daemon {
	return systemd.Daemon{
		Ready: func() bool {
			for _, check := range readiness(c.Status()) {
				if !check.Ready {
					return false
				}
			}
			return true
		},
		Status:      func() string { return statusLine(c.Status(), ctx.Err() != nil, time.Now()) },
		Healthy:     c.Healthy,
		StopTimeout: shutdownTimeout,
	}
}

// readiness is what being ready consists of: each queue is being consumed.
func readiness(s consumer.Status) []telemetry.Check {
	out := make([]telemetry.Check, len(s.Queues))
	for i, q := range s.Queues {
		out[i] = telemetry.Check{Name: q.Queue, Ready: q.Reason == "", Reason: q.Reason}
	}
	return out
}

// statusLine is for systemctl status: 3 queues, 12 in flight, 48,211 done, reconnecting
// to mq2:5672 for 14 s: connection refused.
func statusLine(s consumer.Status, stopping bool, now time.Time) string {
	var inFlight, done int
	var unwell []string
	for _, q := range s.Queues {
		inFlight += q.InFlight
		done += q.Done
		if q.Reason != "" {
			unwell = append(unwell, fmt.Sprintf("%s is not consumed: %s", q.Queue, q.Reason))
		}
	}
	for _, f := range s.Schedules {
		if f.Fault != "" {
			unwell = append(unwell, fmt.Sprintf("schedule %s: %s", f.Schedule, f.Fault))
		}
	}
	line := fmt.Sprintf("%s, %s in flight, %s done",
		english.Plural(len(s.Queues), "queue", ""), humanize.Comma(int64(inFlight)), humanize.Comma(int64(done)))
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
