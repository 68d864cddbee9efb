//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// shares are how many of a hundred messages go to which queue.
var shares = []struct {
	queue string
	share int
}{{"log", 56}, {"webhook", 25}, {"command", 5}, {"email", 4}, {"sql", 4}, {"inbox", 5}, {"report", 1}}

// bodies that can be worked, with the message's number in the place of the verb.
var bodies = map[string]string{
	"log": `{"n": %d}`, "webhook": `{"n": %d}`, "inbox": `{"n": %d}`, "command": `{"n": %d}`,
	"email":  `{"to": "ada@example.net", "subject": "%d", "text": "hello"}`,
	"sql":    `{"statement": "effect", "params": {"n": %d}}`,
	"report": `{"report": "number", "params": {"n": %d}}`,
}

const (
	window  = 100  // messages that a publisher has under way
	backlog = 4000 // messages that are confirmed and not done, at which publishers wait
)

// message is what a publisher publishes as number n, which becomes its id.
func message(r *rand.Rand, n int64) (queue string, msg amqp.Publishing, e event) {
	at := r.IntN(100)
	for _, s := range shares {
		if queue = s.queue; at < s.share {
			break
		}
		at -= s.share
	}
	id := strconv.FormatInt(n, 10)
	msg = amqp.Publishing{MessageId: id, DeliveryMode: amqp.Persistent, Body: fmt.Appendf(nil, bodies[queue], n)}
	e = event{Event: "published", Queue: queue, ID: id}
	kind := r.IntN(1000)
	switch queue {
	case "webhook", "inbox", "command":
		if kind < 40 {
			msg.Type = "fails once"
		} else if kind < 45 {
			msg.Type, e.Fate = "dies", "dead"
		}
	case "email", "sql", "report":
		if kind < 10 {
			msg.Body, e.Fate = []byte(`{"none": "of it"}`), "dead"
		}
	}
	if kind >= 970 {
		msg.Headers, e.Waits = amqp.Table{"x-delay": int64(1 + r.IntN(4000))}, true
	}
	return queue, msg, e
}

// publish publishes until ctx ends. A message that is not confirmed is not repeated.
func (m *machine) publish(ctx context.Context, seed uint64, number int) {
	r := rand.New(rand.NewPCG(seed, uint64(number)))
	for n := int64(number) * 1_000_000_000; ctx.Err() == nil; {
		if err := m.publishOver(ctx, r, &n); err != nil && ctx.Err() == nil {
			m.log("publisher %d: %v", number, err)
			pause(ctx, 200*time.Millisecond)
		}
	}
}

// publishOver publishes over one connection, for as long as that lasts.
func (m *machine) publishOver(ctx context.Context, r *rand.Rand, n *int64) error {
	conn, err := amqp.Dial(m.nodes[rand.IntN(len(m.nodes))].URL(m.vhost.Name))
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) }()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	closes, gone := conn.NotifyClose(make(chan *amqp.Error, 1)), make(chan struct{})
	go func() {
		defer close(gone)
		<-closes
	}()
	type flying struct {
		event
		confirm *amqp.DeferredConfirmation
	}
	flight := make(chan flying, window)
	landed := make(chan struct{})
	go func() {
		defer close(landed)
		for f := range flight {
			select {
			case <-f.confirm.Done():
			case <-gone: // what was published in that moment may never be answered
			}
			if f.confirm.Acked() {
				m.ledger.write(event{Event: "confirmed", Queue: f.Queue, ID: f.ID})
				m.confirmed.Add(1)
				if f.Queue != "log" && f.Queue != "webhook" {
					m.ended.Add(1) // is not waited for
				}
			}
		}
	}()
	defer func() {
		close(flight)
		<-landed
	}()
	for ctx.Err() == nil {
		if err := m.rate.Wait(ctx); err != nil {
			return nil
		}
		for m.confirmed.Load()-m.ended.Load() > backlog && pause(ctx, 20*time.Millisecond) {
		}
		*n++
		queue, msg, e := message(r, *n)
		m.ledger.write(e)
		confirm, err := ch.PublishWithDeferredConfirm("", queue, false, false, msg)
		if err != nil {
			return err
		}
		select {
		case flight <- flying{e, confirm}:
		case <-gone:
			return errors.New("the connection is lost")
		case <-ctx.Done():
			flight <- flying{e, confirm} // there is room, or will be
		}
	}
	return nil
}

// publishHostile publishes some messages of a fiend.
func (m *machine) publishHostile(seed uint64) error {
	raw, err := rabbittest.OpenRaw(m.fiendURL)
	if err != nil {
		return err
	}
	defer func() { raw.Close() }()
	f := rabbittest.NewFiend(seed, raw.FrameMax(), fiendName)
	for i := range 40 {
		n := m.hostile.Add(1)
		queue := []string{"log", "webhook", "command", "email", "sql", "report", "inbox"}[i%7]
		id := strconv.FormatInt(n, 10)
		p := f.Properties(i)
		p["message-id"] = id
		if n := p["type"]; n == "dies" || n == "fails once" {
			delete(p, "type")
		}
		m.ledger.write(event{Event: "published", Queue: queue, ID: id, Fate: "either", Waits: true})
		err := raw.Publish("", queue, rabbittest.RawProperties(p), f.Body(strings.Replace(bodies[queue], "%d", id, 1)))
		if err == nil {
			m.ledger.write(event{Event: "confirmed", Queue: queue, ID: id})
			continue
		}
		raw.Close() // the broker objects, or is away
		if raw, err = rabbittest.OpenRaw(m.fiendURL); err != nil {
			return err
		}
	}
	return nil
}

// writeRows writes rows into the outbox until ctx ends, one after the other.
func (m *machine) writeRows(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, m.database)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for n := 1; ctx.Err() == nil; n++ {
		id := strconv.Itoa(n)
		if _, err := conn.Exec(context.WithoutCancel(ctx), "INSERT INTO warren.outbox (routing_key, message_id, body) VALUES ('relayed', $1, '{}')", id); err != nil {
			return err
		}
		m.ledger.write(event{Event: "row", Queue: "relayed", ID: id})
		pause(ctx, 40*time.Millisecond)
	}
	return nil
}

// receive is what the workers' webhooks call: the path names the queue and the worker.
func (m *machine) receive(w http.ResponseWriter, r *http.Request) {
	_, rest, _ := strings.Cut(r.URL.Path, "/")
	queue, worker, _ := strings.Cut(rest, "/")
	attempt, _ := strconv.Atoi(r.Header.Get("X-Warren-Attempt"))
	e := event{Event: "begun", Queue: queue, ID: r.Header.Get("Webhook-Id"), Attempt: attempt, Worker: worker}
	m.ledger.write(e)
	n := m.received.Add(1)
	<-time.After(time.Duration(n%40) * time.Duration(n%40) * 10 * time.Microsecond) // up to 15 ms
	e.Event = "done"
	kind := r.Header.Get("X-Warren-Type")
	switch {
	case kind == "dies":
		e.Event = "failed"
		w.WriteHeader(http.StatusUnprocessableEntity)
	case kind == "fails once" && attempt == 1:
		e.Event = "failed"
		w.WriteHeader(http.StatusInternalServerError)
	}
	m.ledger.write(e)
	if queue == "webhook" && (e.Event == "done" || kind == "dies") {
		m.finished(e.ID)
	}
}

// finished counts a publisher's message of which the end is seen at once.
func (m *machine) finished(id string) {
	if len(id) == 10 && id < hostileIDs {
		m.ended.Add(1)
	}
}

// hostileIDs are those from here on.
const hostileIDs = "9000000000"

// pause waits for d; it returns false at once when ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
