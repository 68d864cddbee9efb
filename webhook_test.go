package main

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestWebhook has a server put the first attempt off and take the second, and answer
// what the publisher asks for; another message it refuses for good.
func TestWebhook(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	var first, second atomic.Int64 // when attempts arrived, in Unix milliseconds
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := verifier.Verify(body, r.Header); err != nil || r.Header.Get("Authorization") != "Bearer t0ken" {
			t.Errorf("got %v: %v", r.Header, err)
		}
		switch {
		case r.Header.Get("Webhook-Id") != "order-17":
			http.Error(w, "no such order for "+r.Header.Get("Authorization"), http.StatusNotFound)
		case first.CompareAndSwap(0, time.Now().UnixMilli()):
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			second.Store(time.Now().UnixMilli())
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "taken: "+string(body))
		}
	}))
	defer server.Close()

	v := rabbittest.NewVhost(t)
	v.Declare(t, "answers", nil)
	d := start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=orders", "WARREN_QUEUE_ORDERS_PROCESSOR=webhook",
		"WARREN_QUEUE_ORDERS_URL="+server.URL+"/t0psecret", "WARREN_QUEUE_ORDERS_SECRET="+secret, `WARREN_QUEUE_ORDERS_HEADERS={"Authorization": "Bearer t0ken"}`)
	v.Publish(t, "orders",
		amqp091.Publishing{MessageId: "order-17", ReplyTo: "answers", CorrelationId: "c-17", Body: []byte("body")},
		amqp091.Publishing{MessageId: "order-18", Body: []byte("body")})
	rabbittest.Eventually(t, 15*time.Second, func() bool { return v.Ready(t, "answers") == 1 && v.Ready(t, "orders.dead") == 1 }, "one is answered, the other dead-lettered")

	if waited := second.Load() - first.Load(); waited < 2000 {
		t.Errorf("the second attempt came after %d ms, want 2000 at least", waited)
	}
	if a := v.Drain(t, "answers")[0]; string(a.Body) != "taken: body" || a.ContentType != "text/plain" || a.CorrelationId != "c-17" {
		t.Errorf("the answer is %q of %s with the correlation-id %s", a.Body, a.ContentType, a.CorrelationId)
	}
	dead := v.Drain(t, "orders.dead")[0]
	want := strings.TrimPrefix(server.URL, "http://") + " answered 404 Not Found: no such order for [secret]"
	if dead.MessageId != "order-18" || dead.Headers["x-warren-error"] != want || dead.Headers["x-warren-reason"] != "permanent" {
		t.Errorf("the dead letter is %s with %v, want the error %q", dead.MessageId, dead.Headers, want)
	}
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
	for _, secret := range []string{"t0ken", "t0psecret", "whsec_", "MfKQ9r8"} {
		if strings.Contains(d.log.String(), secret) {
			t.Errorf("the log shows %s:\n%s", secret, d.log.String())
		}
	}
}

// TestWebhookThatIsDown has a receiver that is down at first, and then answers with what
// no property and no result can hold. One attempt is all that the messages have.
func TestWebhookThatIsDown(t *testing.T) {
	t.Parallel()
	var requests, done atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := requests.Add(1); {
		case n <= 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Header.Get("X-Warren-Attempt") != "1":
			t.Errorf("the attempt is %s, want 1: the receiver was down", r.Header.Get("X-Warren-Attempt"))
		case r.Header.Get("Webhook-Id") == "long":
			done.Add(1)
			_, _ = w.Write(make([]byte, 2<<20))
		default:
			done.Add(1)
			w.Header().Set("Content-Type", "text/"+strings.Repeat("x", 300))
			_, _ = io.WriteString(w, "odd")
		}
	}))
	defer server.Close()

	v := rabbittest.NewVhost(t)
	v.Declare(t, "answers", nil)
	d := start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=orders", "WARREN_QUEUE_ORDERS_PROCESSOR=webhook",
		"WARREN_QUEUE_ORDERS_URL="+server.URL, "WARREN_QUEUE_ORDERS_MAX_ATTEMPTS=1")
	v.Publish(t, "orders",
		amqp091.Publishing{MessageId: "odd", CorrelationId: "odd", ReplyTo: "answers"},
		amqp091.Publishing{MessageId: "long", CorrelationId: "long", ReplyTo: "answers"})
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "answers") == 2 }, "both are answered")
	for _, a := range v.Drain(t, "answers") {
		want := "application/octet-stream"
		if a.CorrelationId == "long" {
			want = "application/problem+json"
		}
		if a.ContentType != want {
			t.Errorf("the answer to %s is %.100q of %s, want %s", a.CorrelationId, a.Body, a.ContentType, want)
		}
	}
	if done.Load() != 2 || v.Ready(t, "orders.dead") != 0 {
		t.Errorf("the work was done %d times, with %d dead letters, want 2 and none", done.Load(), v.Ready(t, "orders.dead"))
	}
	if strings.Contains(d.log.String(), "connection lost") {
		t.Error("the connection was lost")
	}
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
}

// TestAnAnswerThatNoPropertyHoldsIsAskedForOnce answers with a content type of 305 bytes,
// which would end the connection: each attempt is one POST, whatever becomes of it.
func TestAnAnswerThatNoPropertyHoldsIsAskedForOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	posts := make(map[string]int) // by message and attempt
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, attempt := r.Header.Get("Webhook-Id"), r.Header.Get("X-Warren-Attempt")
		mu.Lock()
		posts[id+" "+attempt]++
		mu.Unlock()
		w.Header().Set("Content-Type", strings.Repeat("t", 305))
		switch {
		case id == "fails" || id == "fails twice" && attempt != "3":
			w.WriteHeader(http.StatusInternalServerError)
		case id == "refused":
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
	}))
	defer server.Close()

	v := rabbittest.NewVhost(t)
	v.Declare(t, "answers", nil)
	d := start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=orders", "WARREN_QUEUE_ORDERS_PROCESSOR=webhook", "WARREN_QUEUE_ORDERS_URL="+server.URL,
		"WARREN_QUEUE_ORDERS_MAX_ATTEMPTS=3", "WARREN_QUEUE_ORDERS_RETRY_BASE=1s", "WARREN_QUEUE_ORDERS_BRAKE=false")
	for _, id := range []string{"done", "fails twice", "fails", "refused"} {
		v.Publish(t, "orders", amqp091.Publishing{MessageId: id, ReplyTo: "answers"})
	}
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "answers") == 2 && v.Ready(t, "orders.dead") == 2 }, "two are answered, two are dead")
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
	want := map[string]int{"done 1": 1, "fails twice 1": 1, "fails twice 2": 1, "fails twice 3": 1, "fails 1": 1, "fails 2": 1, "fails 3": 1, "refused 1": 1}
	if !maps.Equal(posts, want) {
		t.Errorf("got the POSTs %v, want %v", posts, want)
	}
	if strings.Contains(d.log.String(), "connection lost") {
		t.Error("the connection was lost")
	}
}
