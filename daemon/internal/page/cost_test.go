package page

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
)

// largeFleet is a picture of so many daemons that work so many queues.
func largeFleet(daemons, queues int) *picture {
	now := time.Now()
	p := &picture{began: now, answered: now, looked: now, states: make(map[string]queueLengths), history: make(map[string]*history)}
	for d := range daemons {
		for _, at := range []time.Time{now.Add(-fleet.WatchEvery), now} {
			p.view.Add(answerOf(d, queues, at, now), at, fleet.WatchEvery)
		}
	}
	for q := range queues {
		name := fmt.Sprintf("queue-%03d", q)
		p.states[name] = queueLengths{QueueState: fleet.QueueState{Queue: name, Messages: q * 17, Consumers: daemons}, dead: q, waiting: q, waitsAt: now, seen: true}
		h := new(history)
		for i := range samples {
			h.add(sample{now.Add(time.Duration(i-samples) * looksEvery), q * i, q * i, counts{daemons: daemons, left: int64(i * q)}})
		}
		p.history[name] = h
	}
	return p
}

func answerOf(daemon, queues int, at, now time.Time) fleet.Answer {
	a := fleet.Answer{Daemon: fleet.Daemon{Host: fmt.Sprintf("vm%d", daemon), PID: 7, Version: "v1", Began: now.Add(-time.Hour)}, Status: &fleet.Status{At: at, Node: "mq1:5672"}}
	for q := range queues {
		a.Status.Queues = append(a.Status.Queues, fleet.QueueStatus{
			Queue: fmt.Sprintf("queue-%03d", q), Settings: "abcd", InFlight: 2, Slots: 8, Counts: map[string]int64{"ack": at.Unix(), "retry": 3},
			Attempts: []fleet.Attempt{{MessageID: fmt.Sprintf("m-%d-%d", daemon, q), Attempt: 1, Began: at.Add(-time.Minute)}},
		})
	}
	return a
}

// A tab gets a frame every two seconds, of which making one takes a small part.
func BenchmarkFrame(b *testing.B) {
	p, err := New(Config{Program: "warren", Tokens: tokens}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	picture := largeFleet(60, 100)
	b.ReportAllocs()
	for b.Loop() {
		o := p.hub.sees(picture, picture.answered)
		o.arrange("", "")
		p.mark(&o)
		var out bytes.Buffer
		if err := p.templates.ExecuteTemplate(&out, "overview-live", p.frame(nil, "overview", "", o)); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(out.Len()), "bytes")
	}
}
