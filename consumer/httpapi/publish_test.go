package httpapi_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/httpapi"
	"github.com/warrenmq/warren/consumer/state"
)

// Behind a proxy with a path of its own, the Location is below that.
func TestLocationBehindAProxy(t *testing.T) {
	world := &world{states: make(map[string]state.Message)}
	api := newHandler(httpapi.Config{Queues: []string{"orders"}, Publish: world.Publish, Store: world, BasePath: "/warren"})
	if got := ask(t, api, "POST", "/v1/queues/orders", strings.NewReader("{}"), "Message-Id", "a").Header().Get("Location"); got != "/warren/v1/messages/a" {
		t.Errorf("got %q", got)
	}
}

func TestPublish(t *testing.T) {
	world, api := newAPI(t, false)
	w := ask(t, api, "POST", "/v1/queues/orders", strings.NewReader(`{"order": 17}`), "Idempotency-Key", "order/17", "X-Delay", "1500")
	if w.Code != http.StatusAccepted || w.Header().Get("Location") != "/v1/messages/order%2F17" || strings.TrimSpace(w.Body.String()) != `{"message_id":"order/17","queue":"orders"}` {
		t.Errorf("got %d, %v and %s", w.Code, w.Header(), w.Body)
	}
	m := world.messages[0]
	if m.RoutingKey != "orders" || m.AppID != "acme-worker" || m.Exchange != "" || m.MessageID != "order/17" || string(m.Body) != `{"order": 17}` || m.Headers["x-delay"] != int64(1500) {
		t.Errorf("published %+v", m)
	}
	if at := world.states["order/17"].At; !at.Before(world.published) {
		t.Errorf("accepted at %v, want a time before it was published, at %v", at, world.published)
	}
	if w := ask(t, api, "GET", w.Header().Get("Location"), nil); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"state":"accepted"`) {
		t.Errorf("at the Location: got %d and %s", w.Code, w.Body)
	}
}

func TestPublishSetsEveryProperty(t *testing.T) {
	world, api := newAPI(t, false)
	w := ask(t, api, "POST", "/v1/queues/orders", strings.NewReader("{}"), "Amqp-Type", "order.created", "Amqp-Priority", "7", "Amqp-Reply-To", "answers",
		"Amqp-Correlation-Id", "c-1", "Amqp-Expiration", "60000", "X-Delay", "5", "Amqp-Headers", `{"tenant": "Grüße", "n": 9007199254740993, "f": 1.5, "list": [1, {"a": null}]}`)
	if w.Code != http.StatusAccepted {
		t.Fatalf("got %d and %s", w.Code, w.Body)
	}
	m := world.messages[0]
	if m.Type != "order.created" || m.Priority != 7 || m.ReplyTo != "answers" || m.CorrelationID != "c-1" || m.Expiration != time.Minute {
		t.Errorf("published %+v", m)
	}
	want := map[string]any{"tenant": "Grüße", "n": int64(9007199254740993), "f": 1.5, "list": []any{int64(1), map[string]any{"a": nil}}, "x-delay": int64(5)}
	if !reflect.DeepEqual(m.Headers, want) {
		t.Errorf("published the headers %v, want %v", m.Headers, want)
	}
}

// TestStalledUploadsHoldUpNobody has more requests than are published at once stop in
// the middle of their bodies.
func TestStalledUploadsHoldUpNobody(t *testing.T) {
	_, api := newAPI(t, true)
	var stalled sync.WaitGroup
	var uploads []*io.PipeWriter
	for range 100 {
		r, w := io.Pipe()
		stalled.Go(func() { ask(t, api, "POST", "/v1/queues/orders", r) })
		if _, err := w.Write([]byte("{")); err != nil { // it is being read
			t.Fatal(err)
		}
		uploads = append(uploads, w)
	}
	if w := ask(t, api, "POST", "/v1/queues/orders", strings.NewReader("{}")); w.Code != http.StatusAccepted {
		t.Errorf("beside 100 stalled uploads: got %d and %q, want 202", w.Code, w.Body)
	}
	for _, w := range uploads {
		_ = w.Close()
	}
	stalled.Wait()
}

// TestBodiesAreBoundedTogether has bodies come that are too much for the memory, all at
// once.
func TestBodiesAreBoundedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, api := newAPI(t, true)
		var stalled sync.WaitGroup
		var uploads []*io.PipeWriter
		for range 32 {
			r, w := io.Pipe()
			stalled.Go(func() { ask(t, api, "POST", "/v1/queues/orders", r) })
			if _, err := w.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			uploads = append(uploads, w)
		}
		synctest.Wait()
		w := ask(t, api, "POST", "/v1/queues/orders", strings.NewReader("{}"))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("when the memory is full: got %d and %q, want 503", w.Code, w.Body)
		}
		for _, w := range uploads {
			_ = w.Close()
		}
		stalled.Wait()
		if w := ask(t, api, "POST", "/v1/queues/orders", strings.NewReader("{}")); w.Code != http.StatusAccepted {
			t.Errorf("afterwards: got %d and %q, want 202", w.Code, w.Body)
		}
	})
}

func TestPublishMakesAnID(t *testing.T) {
	world, api := newAPI(t, true)
	w := ask(t, api, "POST", "/v1/queues/orders", strings.NewReader("\x00\xff"), "Content-Type", "image/x-thing", "Content-Encoding", "zstd")
	var got struct {
		MessageID string `json:"message_id"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.MessageID) < 20 || w.Code != http.StatusAccepted || w.Header().Get("Location") != "" {
		t.Errorf("got %d, %v and %s, want 202 without a Location, and a long message_id", w.Code, w.Header(), w.Body)
	}
	if m := world.messages[0]; m.MessageID != got.MessageID || string(m.Body) != "\x00\xff" || m.ContentType != "image/x-thing" || m.ContentEncoding != "zstd" {
		t.Errorf("published %+v", m)
	}
}

func TestPublishRefuses(t *testing.T) {
	world, api := newAPI(t, false)
	for _, test := range []struct {
		name    string
		path    string
		body    string
		headers []string
		status  int
		text    string
	}{
		{"queue of nobody", "/v1/queues/payments", "{}", nil, 404, `queue "payments" is not worked here; there are emails, orders`},
		{"dead-letter queue", "/v1/queues/orders.dead", "{}", nil, 404, "is not worked here"},
		{"no JSON", "/v1/queues/orders", "order 17", nil, 400, "the body is not JSON, at byte 1"},
		{"no JSON", "/v1/queues/orders", `{"order": 17`, []string{"Content-Type", "application/json; charset=utf-8"}, 400, "the body is not JSON"},
		{"no JSON", "/v1/queues/orders", `{} {}`, []string{"Content-Type", "application/problem+json"}, 400, "the body is not JSON"},
		{"nothing", "/v1/queues/orders", "", nil, 400, "the body is not JSON"},
		{"too long", "/v1/queues/orders", `"` + strings.Repeat("x", 999) + `"`, nil, 413, "longer than 1000 bytes; raise WARREN_ADMIN_MAX_BODY_BYTES"},
		{"two ids", "/v1/queues/orders", "{}", []string{"Message-Id", "a", "Idempotency-Key", "b"}, 400, "Message-Id and Idempotency-Key differ"},
		{"long id", "/v1/queues/orders", "{}", []string{"Message-Id", strings.Repeat("x", 256)}, 400, "256 bytes"},
		{"dots", "/v1/queues/orders", "{}", []string{"Message-Id", ".."}, 400, "not be one or two dots"},
		{"id with a space", "/v1/queues/orders", "{}", []string{"Message-Id", "a b"}, 400, "printable ASCII"},
		{"delay", "/v1/queues/orders", "{}", []string{"X-Delay", "soon"}, 400, `X-Delay is "soon"; it must be a number of milliseconds from 0`},
		{"delay", "/v1/queues/orders", "{}", []string{"X-Delay", "-1"}, 400, "X-Delay"},
		{"delay", "/v1/queues/orders", "{}", []string{"X-Delay", "99999999999999"}, 400, "to 31622400000"},
		{"type", "/v1/queues/orders", "{}", []string{"Content-Type", "a/b; c"}, 400, "Content-Type is not one"},
		{"long type", "/v1/queues/orders", "{}", []string{"Content-Type", "a/" + strings.Repeat("b", 255)}, 400, "longer than 255 bytes"},
		{"a form", "/v1/queues/orders", "order=17", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "use curl --json"},
		{"Latin-1", "/v1/queues/orders", "{\"a\": \"Gr\xfc\xdfe\"}", nil, 400, "the body is not UTF-8, at byte 10"},
		{"priority", "/v1/queues/orders", "{}", []string{"Amqp-Priority", "256"}, 400, `Amqp-Priority is "256"; it must be a number from 0 to 255`},
		{"expiration", "/v1/queues/orders", "{}", []string{"Amqp-Expiration", "0"}, 400, "from 1 to 4294967295"},
		{"reply-to", "/v1/queues/orders", "{}", []string{"Amqp-Reply-To", strings.Repeat("x", 256)}, 400, "Amqp-Reply-To is longer than 255 bytes"},
		{"correlation", "/v1/queues/orders", "{}", []string{"Amqp-Correlation-Id", "\xff"}, 400, "Amqp-Correlation-Id is not text in UTF-8"},
		{"headers", "/v1/queues/orders", "{}", []string{"Amqp-Headers", "[]"}, 400, "Amqp-Headers is not a JSON object"},
		{"headers", "/v1/queues/orders", "{}", []string{"Amqp-Headers", "{} {}"}, 400, "there is more after the value"},
		{"copies", "/v1/queues/orders", "{}", []string{"Amqp-Headers", `{"CC": ["payments"]}`}, 400, "copies to other queues"},
		{"copies", "/v1/queues/orders", "{}", []string{"Amqp-Headers", `{"BCC": ["payments"]}`}, 400, "copies to other queues"},
		{"Warren's own", "/v1/queues/orders", "{}", []string{"Amqp-Headers", `{"x-warren-attempt": 1}`}, 400, "only RabbitMQ and Warren"},
		{"delay among the headers", "/v1/queues/orders", "{}", []string{"Amqp-Headers", `{"x-delay": 1}`}, 400, "send the header X-Delay"},
		{"several", "/v1/queues/orders", "{}", []string{"X-Delay", "soon", "Message-Id", "a b"}, 400, "printable ASCII characters other than the space, and not be one or two dots\nX-Delay"},
	} {
		w := ask(t, api, "POST", test.path, strings.NewReader(test.body), test.headers...)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.text) {
			t.Errorf("%s: got %d and %q, want %d and %q", test.name, w.Code, w.Body, test.status, test.text)
		}
	}
	if w := ask(t, api, "POST", "/v1/queues/orders", iotest.ErrReader(http.ErrBodyReadAfterClose)); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "not come whole") {
		t.Errorf("a broken body: got %d and %q", w.Code, w.Body)
	}
	if len(world.messages) != 0 {
		t.Errorf("published %+v, want nothing", world.messages)
	}
	for path, method := range map[string]string{"/v1/queues/orders": "GET", "/v1/messages/1": "DELETE", "/v1/openapi.yaml": "POST"} {
		if w := ask(t, api, method, path, nil); w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: got %d, want 405", method, path, w.Code)
		}
	}
}

func TestPublishIsAcceptedOnlyByTheBroker(t *testing.T) {
	world, api := newAPI(t, false)
	world.brokerAway = true
	w := ask(t, api, "POST", "/v1/queues/orders", strings.NewReader("{}"), "Message-Id", "m")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "not accepted: not connected to the broker") || len(world.states) != 0 {
		t.Errorf("without a broker: got %d, %v and %q, with %d states", w.Code, w.Header(), w.Body, len(world.states))
	}
	world.brokerAway, world.storeAway = false, true
	w = ask(t, api, "POST", "/v1/queues/orders", strings.NewReader("{}"), "Message-Id", "m")
	if w.Code != http.StatusAccepted || w.Header().Get("Location") != "" || len(world.messages) != 1 {
		t.Errorf("without a database: got %d and %v, want 202 without a Location", w.Code, w.Header())
	}
}

// TestPublishIsBounded has a broker that does not answer: so many requests wait for it,
// the others for them, and all are refused in the end.
func TestPublishIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var waiting, most int
		api := newHandler(httpapi.Config{Queues: []string{"orders"}, Publish: func(ctx context.Context, _ consumer.Message) error {
			mu.Lock()
			waiting++
			most = max(most, waiting)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			waiting--
			mu.Unlock()
			return context.Cause(ctx)
		}})
		start := time.Now()
		answers := make(chan *httptest.ResponseRecorder, 100)
		for range 100 {
			go func() { answers <- ask(t, api, "POST", "/v1/queues/orders", strings.NewReader("{}")) }()
		}
		texts := make(map[string]int)
		for range 100 {
			w := <-answers
			if w.Code != http.StatusServiceUnavailable {
				t.Errorf("got %d, want 503", w.Code)
			}
			texts[w.Body.String()[:30]]++
		}
		if took := time.Since(start); took != 10*time.Second || most != 32 || len(texts) != 2 {
			t.Errorf("%d waited for the broker, all were answered after %v, with %v; want 32, 10 s, and two kinds of answers", most, took, texts)
		}
	})
}

func TestPublishContinuesTheTrace(t *testing.T) {
	var got trace.SpanContext
	cfg := httpapi.Config{Queues: []string{"orders"}, Publish: func(ctx context.Context, _ consumer.Message) error {
		got = trace.SpanContextFromContext(ctx)
		return nil
	}, Propagator: propagation.TraceContext{}}
	ask(t, newHandler(cfg), "POST", "/v1/queues/orders", strings.NewReader("{}"), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if got.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || got.SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("published within %v, want the trace of the request", got)
	}
}

// TestTheRemediesOfARefusalCure follows what each refusal says.
func TestTheRemediesOfARefusalCure(t *testing.T) {
	const latin1 = "{\"a\": \"Gr\xfc\xdfe\"}"
	for _, c := range []struct {
		remedy       string
		body         string
		wrong, right []string
	}{
		{"either is the message-id, leave one out", "{}", []string{"Message-Id", "a", "Idempotency-Key", "b"}, []string{"Idempotency-Key", "b"}},
		{"send Content-Type: application/json", "{}", []string{"Content-Type", "application/x-www-form-urlencoded"}, []string{"Content-Type", "application/json"}},
		{"send another Content-Type if it is not meant to be", "order 17", nil, []string{"Content-Type", "text/plain"}},
		{"send another Content-Type if it is not meant to be JSON", latin1, nil, []string{"Content-Type", "text/plain; charset=iso-8859-1"}},
		{"send the header X-Delay instead", "{}", []string{"Amqp-Headers", `{"x-delay": 1000}`}, []string{"X-Delay", "1000"}},
	} {
		_, api := newAPI(t, false)
		if w := ask(t, api, "POST", "/v1/queues/orders", strings.NewReader(c.body), c.wrong...); w.Code < 400 || !strings.Contains(w.Body.String(), c.remedy) {
			t.Errorf("got %d and %q, want the remedy %q", w.Code, w.Body, c.remedy)
		}
		if w := ask(t, api, "POST", "/v1/queues/orders", strings.NewReader(c.body), c.right...); w.Code >= 300 {
			t.Errorf("%s, followed: got %d and %q", c.remedy, w.Code, w.Body)
		}
	}

	long := strings.Repeat("x", 1001)
	cfg := httpapi.Config{Queues: []string{"orders"}, Publish: (&world{states: make(map[string]state.Message)}).Publish, MaxBodyBytes: 1000}
	if w := ask(t, newHandler(cfg), "POST", "/v1/queues/orders", strings.NewReader(long), "Content-Type", "text/plain"); !strings.Contains(w.Body.String(), "raise WARREN_ADMIN_MAX_BODY_BYTES") {
		t.Errorf("a long body: got %d and %q, want the remedy", w.Code, w.Body)
	}
	cfg.MaxBodyBytes = 1001
	if w := ask(t, newHandler(cfg), "POST", "/v1/queues/orders", strings.NewReader(long), "Content-Type", "text/plain"); w.Code >= 300 {
		t.Errorf("a long body where it may be so long: got %d and %q", w.Code, w.Body)
	}
}
