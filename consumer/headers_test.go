package consumer

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/remembered"
)

func TestReadHistory(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	for name, c := range map[string]struct {
		headers amqp.Table
		want    history
	}{
		"none":               {nil, history{}},
		"attempts":           {amqp.Table{"x-warren-attempt": int64(3)}, history{attempts: 3}},
		"negative attempts":  {amqp.Table{"x-warren-attempt": int32(-3)}, history{}},
		"delay":              {amqp.Table{"x-delay": int32(1500)}, history{notBefore: now.Add(1500 * time.Millisecond)}},
		"delay as text":      {amqp.Table{"x-delay": " 1500 "}, history{notBefore: now.Add(1500 * time.Millisecond)}},
		"delay as float":     {amqp.Table{"x-delay": float64(1500)}, history{notBefore: now.Add(1500 * time.Millisecond)}},
		"negative delay":     {amqp.Table{"x-delay": int16(-5)}, history{}},
		"nil delay":          {amqp.Table{"x-delay": nil}, history{}},
		"not before":         {amqp.Table{"x-warren-not-before": now.UnixMilli() + 7}, history{notBefore: now.Add(7 * time.Millisecond)}},
		"the later of both":  {amqp.Table{"x-warren-not-before": now.UnixMilli() + 7, "x-delay": uint8(9)}, history{notBefore: now.Add(9 * time.Millisecond)}},
		"the broker's count": {amqp.Table{"x-delivery-count": int64(12)}, history{deliveryCount: 12}},
		"a reply":            {amqp.Table{"x-warren-reply-to": "answers"}, history{replyTo: "answers"}},
		"cut off before":     {amqp.Table{"x-warren-redelivered": true}, history{redelivered: true}},
		"no count at all":    {amqp.Table{"x-delivery-count": "12"}, history{}},
	} {
		got, err := readHistory(&amqp.Delivery{Headers: c.headers, UserId: "warren"}, now, "warren")
		c.want.ours = true
		if err != nil || got != c.want {
			t.Errorf("%s: read %+v and error %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestReadHistoryNamesTheHeaderItCannotRead(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	for name, c := range map[string]struct {
		headers amqp.Table
		want    string
	}{
		"text":             {amqp.Table{"x-delay": "soon"}, `header x-delay is "soon" (string); it must be a whole number`},
		"fraction":         {amqp.Table{"x-delay": 1.5}, `header x-delay is "1.5" (float64); it must be a whole number`},
		"boolean":          {amqp.Table{"x-warren-attempt": true}, `header x-warren-attempt is "true" (bool); it must be a whole number`},
		"infinite":         {amqp.Table{"x-warren-not-before": math.Inf(1)}, `header x-warren-not-before is "+Inf" (float64); it must be a whole number`},
		"slip of units":    {amqp.Table{"x-delay": int64(1_800_000_000_000)}, `header x-delay is 1800000000000; it must be at most 31622400000`},
		"beyond any clock": {amqp.Table{"x-warren-not-before": int64(math.MaxInt64)}, `header x-warren-not-before is 9223372036854775807; it must be at most 1831622400000`},
	} {
		if _, err := readHistory(&amqp.Delivery{Headers: c.headers, UserId: "warren"}, now, "warren"); errorText(err) != c.want {
			t.Errorf("%s: error %q, want %q", name, errorText(err), c.want)
		}
	}
}

// What others than Warren write into its own headers is not believed, but for when a
// message is due.
func TestForgedHeadersAreIgnored(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	forged := amqp.Table{
		"x-warren-attempt": int64(math.MaxInt32), "x-warren-redelivered": true, "x-warren-reply-to": "payments", "x-warren-routing-key": "k", "x-warren-exchange": "e",
		"x-warren-original-user-id": "root", "x-warren-original-priority": int64(9), "x-warren-not-before": now.UnixMilli() + 7, "tenant": "blue",
	}
	d := amqp.Delivery{Headers: forged, UserId: "shop", RoutingKey: "orders"}
	h, err := readHistory(&d, now, "warren")
	equal(t, err, nil)
	equal(t, h, history{notBefore: now.Add(7 * time.Millisecond)})
	j := &job{delivery: d, history: h}
	seen := newDelivery("orders", j, 1)
	equal(t, []any{seen.UserID, seen.RoutingKey, seen.Exchange, seen.Priority}, []any{"shop", "orders", "", uint8(0)})
	equal(t, republishing(j).Headers, amqp.Table{
		"tenant": "blue", "x-warren-not-before": now.UnixMilli() + 7, "x-warren-exchange": "", "x-warren-routing-key": "orders", "x-warren-original-user-id": "shop",
	})
}

func TestRepublishingKeepsAllThatItsPublisherSet(t *testing.T) {
	stamp := time.Unix(1_700_000_000, 0)
	d := amqp.Delivery{
		Headers: amqp.Table{
			"tenant": "blue", "nested": amqp.Table{"a": []any{int64(1), nil}},
			"x-death": []any{amqp.Table{"count": int64(2)}}, "x-first-death-queue": "q", "x-last-death-reason": "expired", "x-delivery-count": int64(2),
			"CC": []any{"other"}, "x-delay": int32(5000), "traceparent": "00-1-2-01",
		},
		ContentType: "text/plain", ContentEncoding: "gzip", DeliveryMode: amqp.Transient, Priority: 3, CorrelationId: "c",
		ReplyTo: "r", Expiration: "60000", MessageId: "m", Timestamp: stamp, Type: "t", UserId: "app", AppId: "a",
		Exchange: "shop", RoutingKey: "order.created", Body: []byte("body"),
	}
	want := amqp.Publishing{
		Headers: amqp.Table{
			"tenant": "blue", "nested": amqp.Table{"a": []any{int64(1), nil}}, "traceparent": "00-1-2-01",
			"x-warren-original-CC": []any{"other"}, "x-warren-original-x-delay": int32(5000),
			"x-warren-original-expiration": "60000", "x-warren-original-user-id": "app",
			"x-warren-exchange": "shop", "x-warren-routing-key": "order.created",
		},
		ContentType: "text/plain", ContentEncoding: "gzip", DeliveryMode: amqp.Persistent, Priority: 3, CorrelationId: "c",
		ReplyTo: "r", MessageId: "m", Timestamp: stamp, Type: "t", AppId: "a", Body: []byte("body"),
	}
	first := republishing(&job{delivery: d})
	equal(t, first, want)

	// Home from a wait queue: what the first hop kept must not be overwritten.
	second := republishing(&job{history: history{ours: true}, delivery: amqp.Delivery{
		Headers: first.Headers, ContentType: first.ContentType, ContentEncoding: first.ContentEncoding, Priority: first.Priority,
		CorrelationId: first.CorrelationId, ReplyTo: first.ReplyTo, MessageId: first.MessageId, Timestamp: first.Timestamp,
		Type: first.Type, AppId: first.AppId, Body: first.Body, Exchange: "", RoutingKey: "orders", UserId: "warren",
	}})
	equal(t, second, want)
}

func TestWriteFailure(t *testing.T) {
	h := amqp.Table{}
	broker.WriteFailure(h, 1, errors.New("first"), time.UnixMilli(1000), "vm1 1.0")
	broker.WriteFailure(h, 2, errors.New(strings.Repeat("ä", 5000)), time.UnixMilli(2000), "vm2 1.0")
	text := h["x-warren-error"].(string)
	if len(text) > broker.MaxErrorBytes || !utf8.ValidString(text) || !strings.HasSuffix(text, " [...]") {
		t.Errorf("error of %d bytes, valid UTF-8 %v, want at most %d", len(text), utf8.ValidString(text), broker.MaxErrorBytes)
	}
	delete(h, "x-warren-error")
	equal(t, h, amqp.Table{"x-warren-attempt": int64(2), "x-warren-first-failed-at": int64(1000), "x-warren-failed-at": int64(2000), "x-warren-worker": "vm2 1.0"})
}

func TestDeliveryHasNoTypesOfTheLibrary(t *testing.T) {
	d := newDelivery("orders", &job{history: history{ours: true}, delivery: amqp.Delivery{
		Exchange: "", RoutingKey: "orders", MessageId: "m",
		Headers: amqp.Table{
			"table": amqp.Table{"list": []any{amqp.Table{"price": amqp.Decimal{Scale: 2, Value: 1999}}}}, "n": int32(1),
			"x-warren-exchange": "shop", "x-warren-routing-key": "order.created", "x-warren-original-user-id": "app",
		},
	}}, 4)
	equal(t, d.Headers["table"], any(map[string]any{"list": []any{map[string]any{"price": 19.99}}}))
	equal(t, []string{d.Exchange, d.RoutingKey, d.UserID, d.MessageID, d.Queue}, []string{"shop", "order.created", "app", "m", "orders"})
	equal(t, d.Attempt, 4)
}

// FuzzMessage gives Warren messages whose headers and properties are whatever a
// publisher may send, and sends them round: nothing may panic, nothing that the
// broker would act on may stay, and what is published again must be publishable.
func FuzzMessage(f *testing.F) {
	f.Add("x-delay", uint8(0), "5000", int64(5000), 1.5, "m-1", "60000", "guest", []byte(`{"a":1}`))
	f.Add("x-warren-attempt", uint8(3), "", int64(-1), 0.0, "", "", "", []byte(nil))
	f.Add("x-warren-not-before", uint8(5), "\xff", int64(math.MaxInt64), math.NaN(), "\x00", "x", "\n", []byte("\x00"))
	f.Add("x-death", uint8(7), "expired", int64(1), math.Inf(-1), "m", "", "", []byte("b"))
	f.Add("CC", uint8(8), "other", int64(1), 1e300, "m", "0", "root", []byte("b"))
	f.Fuzz(func(t *testing.T, header string, kind uint8, text string, n int64, x float64, id, expiration, user string, body []byte) {
		values := []any{text, int8(n), int16(n), int32(n), n, uint8(n), x, []any{amqp.Table{text: n}, nil}, amqp.Table{text: []any{x}}, amqp.Decimal{Scale: uint8(n), Value: int32(n)}, []byte(text), true, nil, float32(x), time.Unix(n, 0)}
		d := amqp.Delivery{
			Headers:   amqp.Table{header: values[int(kind)%len(values)], "x-delivery-count": n},
			MessageId: id, Expiration: expiration, UserId: user, Body: body, RoutingKey: text,
		}
		now := time.UnixMilli(1_800_000_000_000)
		h, err := readHistory(&d, now, "warren")
		if h.attempts < 0 || h.notBefore.After(now.Add(MaxDelay)) {
			t.Errorf("history %+v of %v", h, d.Headers)
		}
		if err != nil && !strings.Contains(err.Error(), "header x-") {
			t.Errorf("the error names no header: %v", err)
		}
		j := &job{delivery: d, history: h}
		newDelivery("q", j, h.attempts+1)
		seen := remembered.New()
		seen.Add(seen.IdentityOf(&d), now)
		if !seen.Take(seen.IdentityOf(&d), now) {
			t.Error("the message is not known again")
		}

		msg := republishing(j)
		broker.WriteFailure(msg.Headers, h.attempts+1, errors.New(text), now, "w")
		if err := msg.Headers.Validate(); err != nil {
			t.Errorf("cannot be published again: %v", err)
		}
		if msg.Expiration != "" || msg.UserId != "" || msg.MessageId != id || string(msg.Body) != string(body) {
			t.Errorf("published again as %+v", msg)
		}
		for name := range msg.Headers {
			if broker.IsBrokers(name) || name == "CC" || name == "BCC" || name == broker.HeaderDelay {
				t.Errorf("header %s would be acted on by the broker", name)
			}
		}
		if text := msg.Headers[broker.HeaderError].(string); len(text) > broker.MaxErrorBytes || !utf8.ValidString(text) {
			t.Errorf("error header of %d bytes, valid %v", len(text), utf8.ValidString(text))
		}
	})
}
