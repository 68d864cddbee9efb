package consumer

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestReadStory(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	for name, c := range map[string]struct {
		headers amqp.Table
		want    story
	}{
		"none":               {nil, story{}},
		"attempts":           {amqp.Table{"x-warren-attempt": int64(3)}, story{attempts: 3}},
		"negative attempts":  {amqp.Table{"x-warren-attempt": int32(-3)}, story{}},
		"delay":              {amqp.Table{"x-delay": int32(1500)}, story{notBefore: now.Add(1500 * time.Millisecond)}},
		"delay as text":      {amqp.Table{"x-delay": " 1500 "}, story{notBefore: now.Add(1500 * time.Millisecond)}},
		"delay as float":     {amqp.Table{"x-delay": float64(1500)}, story{notBefore: now.Add(1500 * time.Millisecond)}},
		"negative delay":     {amqp.Table{"x-delay": int16(-5)}, story{}},
		"nil delay":          {amqp.Table{"x-delay": nil}, story{}},
		"not before":         {amqp.Table{"x-warren-not-before": now.UnixMilli() + 7}, story{notBefore: now.Add(7 * time.Millisecond)}},
		"the later of both":  {amqp.Table{"x-warren-not-before": now.UnixMilli() + 7, "x-delay": uint8(9)}, story{notBefore: now.Add(9 * time.Millisecond)}},
		"the broker's count": {amqp.Table{"x-delivery-count": int64(12)}, story{deliveryCount: 12}},
		"no count at all":    {amqp.Table{"x-delivery-count": "12"}, story{}},
	} {
		got, err := readStory(&amqp.Delivery{Headers: c.headers}, now)
		if err != nil || got != c.want {
			t.Errorf("%s: read %+v and error %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestReadStoryNamesTheHeaderItCannotRead(t *testing.T) {
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
		if _, err := readStory(&amqp.Delivery{Headers: c.headers}, now); errorText(err) != c.want {
			t.Errorf("%s: error %q, want %q", name, errorText(err), c.want)
		}
	}
}

func TestAgainKeepsAllThatItsPublisherSet(t *testing.T) {
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
	first := again(&d)
	equal(t, first, want)

	// Home from a wait queue: what the first hop kept must not be overwritten.
	second := again(&amqp.Delivery{
		Headers: first.Headers, ContentType: first.ContentType, ContentEncoding: first.ContentEncoding, Priority: first.Priority,
		CorrelationId: first.CorrelationId, ReplyTo: first.ReplyTo, MessageId: first.MessageId, Timestamp: first.Timestamp,
		Type: first.Type, AppId: first.AppId, Body: first.Body, Exchange: "", RoutingKey: "orders",
	})
	equal(t, second, want)
}

func TestWriteFailure(t *testing.T) {
	h := amqp.Table{}
	writeFailure(h, 1, errors.New("first"), time.UnixMilli(1000), "vm1 1.0")
	writeFailure(h, 2, errors.New(strings.Repeat("ä", 5000)), time.UnixMilli(2000), "vm2 1.0")
	text := h["x-warren-error"].(string)
	if len(text) > maxErrorBytes || !utf8.ValidString(text) || !strings.HasSuffix(text, " [...]") {
		t.Errorf("error of %d bytes, valid UTF-8 %v, want at most %d", len(text), utf8.ValidString(text), maxErrorBytes)
	}
	delete(h, "x-warren-error")
	equal(t, h, amqp.Table{"x-warren-attempt": int64(2), "x-warren-first-failed-at": int64(1000), "x-warren-failed-at": int64(2000), "x-warren-worker": "vm2 1.0"})
}

func TestDeliveryHasNoTypesOfTheLibrary(t *testing.T) {
	d := newDelivery("orders", &amqp.Delivery{
		Exchange: "", RoutingKey: "orders", MessageId: "m",
		Headers: amqp.Table{
			"table": amqp.Table{"list": []any{amqp.Table{"price": amqp.Decimal{Scale: 2, Value: 1999}}}}, "n": int32(1),
			"x-warren-exchange": "shop", "x-warren-routing-key": "order.created", "x-warren-original-user-id": "app",
		},
	}, 4)
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
	f.Fuzz(func(t *testing.T, name string, kind uint8, text string, n int64, x float64, id, expiration, user string, body []byte) {
		values := []any{text, int8(n), int16(n), int32(n), n, uint8(n), x, []any{amqp.Table{text: n}, nil}, amqp.Table{text: []any{x}}, amqp.Decimal{Scale: uint8(n), Value: int32(n)}, []byte(text), true, nil, float32(x), time.Unix(n, 0)}
		d := amqp.Delivery{
			Headers:   amqp.Table{name: values[int(kind)%len(values)], "x-delivery-count": n},
			MessageId: id, Expiration: expiration, UserId: user, Body: body, RoutingKey: text,
		}
		now := time.UnixMilli(1_800_000_000_000)
		s, err := readStory(&d, now)
		if s.attempts < 0 || s.notBefore.After(now.Add(maxDelay)) {
			t.Errorf("story %+v of %v", s, d.Headers)
		}
		if err != nil && !strings.Contains(err.Error(), "header x-") {
			t.Errorf("the error names no header: %v", err)
		}
		newDelivery("q", &d, s.attempts+1)
		newRemembered().add(&d)

		msg := again(&d)
		writeFailure(msg.Headers, s.attempts+1, errors.New(text), now, "w")
		if err := msg.Headers.Validate(); err != nil {
			t.Errorf("cannot be published again: %v", err)
		}
		if msg.Expiration != "" || msg.UserId != "" || msg.MessageId != id || string(msg.Body) != string(body) {
			t.Errorf("published again as %+v", msg)
		}
		for h := range msg.Headers {
			if isBrokers(h) || h == "CC" || h == "BCC" || h == headerDelay {
				t.Errorf("header %s would be acted on by the broker", h)
			}
		}
		if text := msg.Headers[headerError].(string); len(text) > maxErrorBytes || !utf8.ValidString(text) {
			t.Errorf("error header of %d bytes, valid %v", len(text), utf8.ValidString(text))
		}
	})
}
