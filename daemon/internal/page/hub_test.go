package page

import (
	"encoding/json"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// A fleet is asked to report less often the larger it is, but for what is new or has just been
// done.
func TestEvery(t *testing.T) {
	for daemons, want := range map[int]time.Duration{0: 2 * time.Second, 12: 2 * time.Second, 13: 4 * time.Second, 60: 10 * time.Second, 1000: fleet.MaxWatchEvery} {
		p, h := largeFleet(daemons, 100), new(hub)
		now := p.answered
		if every := h.every(p, now); every != fleet.WatchEvery {
			t.Errorf("%d daemons that have just been asked: got %v", daemons, every)
		}
		if every := h.every(p, now.Add(fleet.WatchEvery)); every != want {
			t.Errorf("%d daemons with 100 queues each: got %v, want %v", daemons, every, want)
		}
		h.acted = now
		if every := h.every(p, now.Add(fleet.WatchEvery)); every != fleet.WatchEvery {
			t.Errorf("%d daemons after an act: got %v", daemons, every)
		}
	}
}

// Daemons are asked anew when there is more to read than was thought, and at once after an act.
func TestALargeFleetIsAskedAnew(t *testing.T) {
	t.Parallel()
	v, p, _ := withBroker(t, 1)
	ch := v.Channel(t)
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err == nil {
		err = ch.ExchangeDeclare(fleet.Exchange, "fanout", true, false, false, false, nil)
	}
	if err == nil {
		err = ch.QueueBind(q.Name, "", fleet.Exchange, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	requests, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	asked := func(what string, want time.Duration, attempts int) {
		t.Helper()
		for late := time.After(rabbittest.Soon); ; {
			select {
			case d := <-requests:
				var r fleet.Request
				if err := json.Unmarshal(d.Body, &r); err != nil {
					t.Fatal(err)
				}
				answer, _ := json.Marshal(fleet.Answer{Daemon: fleet.Daemon{Host: "vm", PID: 1}, Status: &fleet.Status{At: time.Now(), Queues: make([]fleet.QueueStatus, 2000)}})
				if err := ch.Publish("", d.ReplyTo, false, false, amqp.Publishing{Body: answer}); err != nil {
					t.Fatal(err)
				}
				if r.Every() == want && r.Attempts == attempts {
					return
				}
			case <-late:
				t.Fatalf("%s: no daemon was asked to report %d attempts every %v", what, attempts, want)
			}
		}
	}
	picture, leave := p.hub.look(false)
	defer leave()
	asked("at first", fleet.WatchEvery, fewAttempts)
	asked("as soon as it is known how much there is", 2*fleet.WatchEvery, fewAttempts)
	_, leaveQueue := p.hub.look(true)
	asked("as soon as somebody looks into a queue", 2*fleet.WatchEvery, manyAttempts)
	leaveQueue()
	_, leaveQueue = p.hub.look(true) // the same tab again, for what is live
	defer leaveQueue()
	refreshed := make(chan bool)
	go func() { refreshed <- p.hub.refresh(t.Context()) }()
	asked("after an act, and still of that queue", fleet.WatchEvery, manyAttempts)
	if !<-refreshed {
		t.Error("the daemon has answered, and what it has said is not there")
	}
	if answers := picture.view.Answers(time.Now()); len(answers) != 1 {
		t.Errorf("got %d answers, want 1", len(answers))
	}
}

// The line of a queue's last five minutes is as long as they are, however often it was looked at.
func TestHistory(t *testing.T) {
	began := time.Now()
	for _, every := range []time.Duration{looksEvery, 2 * looksEvery, 3*looksEvery + looksEvery/4} {
		var h history
		for at := time.Duration(0); at <= 2*remembered; at += every {
			h.add(sample{at: began.Add(at), ready: 1, counts: counts{daemons: 1, left: int64(at / time.Second)}})
		}
		if len(h.out) != samples-1 || h.out[0] != 1 || last(h.out) != 1 || len(h.in) != len(h.out) {
			t.Errorf("every %v: got %d values, from %v to %v a second, want %d of 1", every, len(h.out), h.out[0], last(h.out), samples-1)
		}
		n := len(h.samples)
		if span := h.samples[n-1].at.Sub(h.samples[0].at); span > remembered || span <= remembered-every {
			t.Errorf("every %v: %v are remembered, want %v", every, span, remembered)
		}
	}
}
