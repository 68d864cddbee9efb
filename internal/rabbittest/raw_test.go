package rabbittest

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestWhatIsEncodedByHandIsReadByTheLibrary(t *testing.T) {
	v := NewVhost(t)
	v.Declare(t, "q", nil)
	body := bytes.Repeat([]byte("0123456789"), 30_000) // three frames
	RawPublish(t, v.URL, "", "q", RawProperties(map[string]any{
		"content-type":  "text/plain",
		"delivery-mode": byte(amqp.Persistent),
		"message-id":    "\xff\x00",
		"type":          "",
		"timestamp":     uint64(1_700_000_000),
		"headers": RawTable(
			RawField("text", RawString("caf\xe9")),
			RawField("number", RawInt(-7)),
			RawField("list", RawArray(RawInt(1), RawString("two"))),
			RawField("deep", RawNested(RawDeep(2)))),
	}), body)
	d := v.Drain(t, "q")[0]
	if d.ContentType != "text/plain" || d.MessageId != "\xff\x00" || d.DeliveryMode != amqp.Persistent ||
		d.Timestamp.Unix() != 1_700_000_000 || !bytes.Equal(d.Body, body) {
		t.Errorf("message: got type %q, id %q, mode %d, time %v and %d bytes, want what was sent",
			d.ContentType, d.MessageId, d.DeliveryMode, d.Timestamp, len(d.Body))
	}
	list, _ := d.Headers["list"].([]any)
	deep, _ := d.Headers["deep"].(amqp.Table)
	if d.Headers["text"] != "caf\xe9" || d.Headers["number"] != int64(-7) || len(list) != 2 || len(deep) != 1 {
		t.Errorf("headers: got %v, want what was sent", d.Headers)
	}
}

// What the broker keeps and the library does not read.
func TestWhatTheLibraryRefusesGoesInAndOut(t *testing.T) {
	v := NewVhost(t)
	v.Declare(t, "q", nil)
	for name, headers := range map[string][]byte{
		"a table 33 deep":            RawDeep(33),
		"a table of 8,193 fields":    RawWide(8193),
		"an array of 8,193 elements": RawTable(RawField("a", RawLong(8193))),
	} {
		t.Run(name, func(t *testing.T) {
			properties := RawProperties(map[string]any{"headers": headers, "delivery-mode": byte(amqp.Persistent)})
			RawPublish(t, v.URL, "", "q", properties, []byte("body"))

			conn := dial(t, v.URL)
			closed := conn.NotifyClose(make(chan *amqp.Error, 1))
			ch, err := conn.Channel()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ch.Consume("q", "", false, false, false, false, nil); err != nil && !errors.Is(err, amqp.ErrClosed) {
				t.Fatal(err)
			}
			if reason := await(t, closed, "close of the connection by the library"); reason == nil || reason.Server {
				t.Errorf("close of the connection: got %v, want one by the library", reason)
			}

			Eventually(t, patience, func() bool { return v.Ready(t, "q") == 1 }, "the message is back in its queue")
			m := RawTake(t, v.URL, "q")
			if !bytes.Contains(m.Properties, headers[4:]) || string(m.Body) != "body" || m.Key != "q" || m.Exchange != "" {
				t.Errorf("message: got %d bytes of properties and body %q from exchange %q with key %q, want what was sent",
					len(m.Properties), m.Body, m.Exchange, m.Key)
			}
		})
	}
}

func TestWhatBecomesOfARawPublishIsSaid(t *testing.T) {
	v := NewVhost(t)
	v.Declare(t, "full", amqp.Table{amqp.QueueMaxLenArg: 1, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish})
	r := DialRaw(t, v.URL)
	if err := r.Publish("", "none", RawProperties(nil), nil); !errors.Is(err, ErrRawReturned) {
		t.Errorf("publish to no queue: got error %v, want %v", err, ErrRawReturned)
	}
	Eventually(t, patience, func() bool {
		err := r.Publish("", "full", RawProperties(nil), nil)
		if err != nil && !errors.Is(err, ErrRawNacked) {
			t.Fatalf("publish to a full queue: got error %v, want %v", err, ErrRawNacked)
		}
		return err != nil
	}, "a full queue refuses a message")
	if _, ok, err := r.Get("full"); !ok || err != nil {
		t.Errorf("get from a full queue: got a message %t and error %v, want true and nil", ok, err)
	}
	for _, c := range []struct {
		name     string
		exchange string
		headers  []byte
		code     int // zero: depends on the broker's version
	}{
		{"no such exchange", "none", RawTable(), amqp.NotFound},
		{"a table that is cut short", "", longString("\x05ab"), 0},
		{"a header frame that is too long", "", RawTable(RawField("a", RawString(strings.Repeat("x", r.FrameMax())))), amqp.FrameError},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := DialRaw(t, v.URL).Publish(c.exchange, "full", RawProperties(map[string]any{"headers": c.headers}), nil)
			if said, ok := errors.AsType[*amqp.Error](err); !ok || c.code != 0 && said.Code != c.code {
				t.Errorf("publish: got error %v, want one of the broker's with code %d", err, c.code)
			}
		})
	}
	if _, err := OpenRaw(v.AddUser(t, "raw", "right", "", "", "") + "x"); err == nil {
		t.Error("connect to a vhost that is not there: got nil, want an error")
	}
	url := strings.Replace(v.URL, "guest:guest", "guest:wrong", 1)
	if _, err := OpenRaw(url); err == nil {
		t.Error("connect with a wrong password: got nil, want an error")
	}
}

func TestTheIDAmongProperties(t *testing.T) {
	all := map[string]any{
		"content-type": "a", "content-encoding": "b", "headers": RawDeep(40), "delivery-mode": byte(2), "priority": byte(1),
		"correlation-id": "c", "reply-to": "d", "expiration": "1", "message-id": "it", "timestamp": uint64(1), "app-id": "e",
	}
	for _, properties := range []map[string]any{all, {"message-id": "it"}, {"headers": RawTable(), "message-id": "it"}} {
		if got := (RawMessage{Properties: RawProperties(properties)}).ID(); got != "it" {
			t.Errorf("%v: got %q, want it", properties, got)
		}
	}
	delete(all, "message-id")
	if got := (RawMessage{Properties: RawProperties(all)}).ID(); got != "" {
		t.Errorf("without an id: got %q, want none", got)
	}
}
