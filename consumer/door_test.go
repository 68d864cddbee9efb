package consumer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// fullHeaders encodes headers that fill the frame of their message to the last byte but
// those that are to be left: one field, and then the others.
func fullHeaders(frameMax, left int, others ...[]byte) []byte {
	encode := func(fill int) []byte {
		return rabbittest.RawTable(append([][]byte{rabbittest.RawField("fill", rabbittest.RawString(strings.Repeat("x", fill)))}, others...)...)
	}
	around := len(rabbittest.RawProperties(map[string]any{"headers": encode(0), "message-id": "m", "delivery-mode": byte(2)})) + 12 + 8
	return encode(frameMax - around - left)
}

// TestWhatTheLibraryRefusesIsDeadLettered publishes what would end the connection, to a
// queue beside one that nobody may disturb.
func TestWhatTheLibraryRefusesIsDeadLettered(t *testing.T) {
	t.Parallel()
	for _, queueType := range []string{Quorum, Classic} {
		t.Run(queueType, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			done := newLedger()
			worked := done.done()
			r := run(t, []string{v.URL}, Queue{Name: "hostile", Type: queueType, Processor: worked}, Queue{Name: "neighbour", Processor: worked})
			raw := rabbittest.DialRaw(t, v.URL)
			deep := rabbittest.RawField("deep", rabbittest.RawNested(rabbittest.RawDeep(33)))
			unreadable := map[string][]byte{
				"deep":  rabbittest.RawDeep(33),
				"abyss": rabbittest.RawDeep(3000),
				"wide":  rabbittest.RawWide(8193),
				"long":  rabbittest.RawTable(rabbittest.RawField("l", rabbittest.RawLong(8193))),
				"room":  fullHeaders(raw.FrameMax(), 9000, deep),
				"full":  fullHeaders(raw.FrameMax(), 0, deep),
				"tight": fullHeaders(raw.FrameMax(), 250, deep), // the door has room for it, the dead letter has not
			}
			publish := func(id string, headers []byte) {
				if err := raw.Publish("", "hostile", rabbittest.RawProperties(map[string]any{"headers": headers, "message-id": id[:1], "delivery-mode": byte(2)}), []byte("body of "+id)); err != nil {
					t.Fatal(err)
				}
			}
			for id, headers := range unreadable {
				publish(id, headers)
				v.Publish(t, "neighbour", amqp.Publishing{MessageId: "beside " + id})
			}
			publish("readable", fullHeaders(raw.FrameMax(), 0))
			rabbittest.Eventually(t, 30*time.Second, func() bool { return v.Ready(t, "hostile.dead") == len(unreadable) }, "all are dead letters")
			empty(t, v, "hostile", "neighbour")
			for id := range unreadable {
				equal(t, len(done.of("beside "+id)), 1)
			}
			equal(t, len(done.of("r")), 1)
			for range unreadable {
				m := rabbittest.RawTake(t, v.URL, "hostile.dead")
				id := strings.TrimPrefix(string(m.Body), "body of ")
				headers, known := unreadable[id]
				if !known || !bytes.Contains(m.Properties, headers[len(headers)-50:]) && !bytes.Contains(m.Properties, headers[4:len(headers)-500]) {
					t.Errorf("dead letter %q does not have its headers", m.Body)
				}
				whole := id == "full" || id == "tight"
				if told := bytes.Contains(m.Properties, []byte("x-warren-error")); told == whole {
					t.Errorf("dead letter %s has words: %t, want %t", id, told, !whole)
				}
				if bytes.Contains(m.Properties, []byte("x-death")) != whole {
					t.Errorf("dead letter %s: want one of the broker's %t", id, whole)
				}
			}
			for text, times := range map[string]int{"they are nested more than 32 deep": 5, "more than 8192 elements": 2, "rejected whole": 2, "msg=connected": 1} {
				equal(t, fmt.Sprint(text, " ", strings.Count(r.log.String(), text)), fmt.Sprint(text, " ", times))
			}
		})
	}
}

// TestWhatCannotBePublishedAgainIsKept has messages fail whose headers leave no room for
// what Warren would add.
func TestWhatCannotBePublishedAgainIsKept(t *testing.T) {
	t.Parallel()
	fails := map[string]error{"retry": errors.New("no luck"), "never": Permanent(errors.New("no use"))}
	for _, queueType := range []string{Quorum, Classic} {
		for _, passive := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, passive %t", queueType, passive), func(t *testing.T) {
				v := rabbittest.NewVhost(t)
				if passive { // and nobody has thought of where what is rejected goes
					for _, name := range []string{"large", "large.dead"} {
						v.Declare(t, name, amqp.Table{"x-queue-type": queueType})
					}
					q := broker.Queue{Name: "large", Type: queueType, RetryMax: time.Minute}
					for _, wait := range q.Waits() {
						if err := dial(t, v.URL).Ensure([]broker.Declaration{q.DeclareWait(wait)}, false, ""); err != nil {
							t.Fatal(err)
						}
					}
				}
				done := newLedger()
				r := run(t, []string{v.URL}, Queue{Name: "neighbour", Processor: done.done()}, Queue{Name: "large", Type: queueType, Passive: passive, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
					done.write(d)
					return fails[d.Type]
				})})
				raw := rabbittest.DialRaw(t, v.URL)
				sent := make(map[string][]byte)
				for _, fault := range []string{"retry", "never", "late"} {
					for kind, headers := range map[string][]byte{
						"full":   fullHeaders(raw.FrameMax(), len(fault)+1, rabbittest.RawField("x-delay", rabbittest.RawInt(map[string]int64{"late": 60_000}[fault]))),
						"strewn": rabbittest.RawWide(8192),
					} {
						if kind == "strewn" && fault == "late" {
							continue
						}
						id := fault + " " + kind
						sent[id] = headers
						if err := raw.Publish("", "large", rabbittest.RawProperties(map[string]any{"headers": headers, "message-id": "m", "delivery-mode": byte(2), "type": fault}), []byte(id)); err != nil {
							t.Fatal(err)
						}
						v.Publish(t, "neighbour", amqp.Publishing{MessageId: "beside " + id})
					}
				}
				rabbittest.Eventually(t, 30*time.Second, func() bool { return v.Ready(t, "large.dead") == len(sent) }, "all are dead letters")
				empty(t, v, "large", "neighbour")
				equal(t, len(done.of("m")), 4)
				for id := range sent {
					equal(t, len(done.of("beside "+id)), 1)
				}
				for range len(sent) {
					m := rabbittest.RawTake(t, v.URL, "large.dead")
					fill := sent[string(m.Body)]
					// A copy has them in another order.
					all := bytes.Count(m.Properties, []byte{'t', 1}) == 8192 || bytes.Contains(m.Properties, bytes.Repeat([]byte("x"), 130_000))
					if len(fill) == 0 || !all {
						t.Errorf("dead letter %q does not have its headers", m.Body)
					}
				}
				text := r.log.String()
				equal(t, strings.Count(text, "msg=connected"), 1)
				want := []string{"no luck; it cannot wait: ", "error=\"no use\"", "error=\"it cannot wait: "}
				if !passive {
					want = append(want, "rejected whole")
				}
				for _, want := range want {
					if !strings.Contains(text, want) {
						t.Errorf("the log lacks %q", want)
					}
				}
			})
		}
	}
}

// TestHeadersThatTheBrokerMakesTooLong has the broker add its count of deliveries to
// headers that leave no room for it.
func TestHeadersThatTheBrokerMakesTooLong(t *testing.T) {
	v := rabbittest.NewVhost(t)
	done := newLedger()
	started, release := make(chan struct{}), make(chan struct{})
	block := run(t, []string{v.URL}, Queue{Name: "full", Prefetch: 1, Concurrency: 1, Processor: ProcessorFunc(func(ctx context.Context, d Delivery, _ *Scope) error {
		done.write(d)
		close(started)
		<-release
		return nil
	})})
	raw := rabbittest.DialRaw(t, v.URL)
	if err := raw.Publish("", "full", rabbittest.RawProperties(map[string]any{"headers": fullHeaders(raw.FrameMax(), 0), "message-id": "m", "delivery-mode": byte(2)}), []byte("body")); err != nil {
		t.Fatal(err)
	}
	<-started
	v.CloseConnections(t, "for a test")
	rabbittest.Eventually(t, 30*time.Second, func() bool { return strings.Count(block.log.String(), "msg=connected") == 2 }, "connected again")
	close(release)
	rabbittest.Eventually(t, 30*time.Second, func() bool { return v.Ready(t, "full.dead") == 1 }, "it is a dead letter")
	equal(t, len(done.of("m")), 1)
	equal(t, strings.Count(block.log.String(), "msg=connected"), 2)
	if m := rabbittest.RawTake(t, v.URL, "full.dead"); !bytes.Contains(m.Properties, bytes.Repeat([]byte("x"), 100_000)) || string(m.Body) != "body" {
		t.Errorf("the dead letter is not whole: %d bytes of properties, %q", len(m.Properties), m.Body)
	}
}

// TestReplyThatCannotBeSent has finished work answer with what AMQP or the broker does not
// take. It is not done again.
func TestReplyThatCannotBeSent(t *testing.T) {
	v := rabbittest.NewVhost(t)
	limit := func(bytes int) {
		if _, err := v.Node.Eval(fmt.Sprintf("application:set_env(rabbit, max_message_size, %d), persistent_term:put(max_message_size, %d)", bytes, bytes)); err != nil {
			t.Fatal(err)
		}
	}
	limit(100_000)
	t.Cleanup(func() { limit(16 << 20) })
	v.Declare(t, "answers", nil)
	done := newLedger()
	r := run(t, []string{v.URL}, Queue{Name: "q", Processor: ProcessorFunc(func(_ context.Context, d Delivery, s *Scope) error {
		done.write(d)
		answer := Result{Body: []byte("{}")}
		switch d.MessageID {
		case "type":
			answer.ContentType = strings.Repeat("t", 305)
		case "size":
			answer.Body = make([]byte, 100_001)
		}
		s.SetResult(answer)
		return nil
	})})
	made := 0
	for _, id := range []string{"type", "size"} {
		v.Publish(t, "q", amqp.Publishing{MessageId: id, ReplyTo: "answers"})
	}
	const token = "\x83Xv\x00\x0ereply@29834596\x00\x00\x047\x00\x00\x00\x00k\b\x1d7"
	direct := func(process, key string) string {
		return "amq.rabbitmq.reply-to." + base64.StdEncoding.EncodeToString([]byte(process)) + "." + base64.StdEncoding.EncodeToString([]byte(key))
	}
	for _, to := range []string{
		"amq.rabbitmq.reply-to.", "amq.rabbitmq.reply-to.g2dkAA", "amq.rabbitmq.reply-to.\xff\x00", direct("", ""), direct("\x83d\x00\x01a", "key"),
		direct(token, ""), direct(token, strings.Repeat("k", 16)), direct(token[:len(token)-1], strings.Repeat("k", 16)),
		direct(strings.Replace(token, "29834596", "12345678", 1), strings.Repeat("k", 16)), direct(strings.Replace(token, "29834596", "99999999", 1), strings.Repeat("k", 16)),
		"no such queue", "\xff\x00", strings.Repeat("\u20ac", 85),
	} {
		made++
		rabbittest.RawPublish(t, v.URL, "", "q", rabbittest.RawProperties(map[string]any{"message-id": fmt.Sprint("made up ", made), "reply-to": to, "delivery-mode": byte(2)}), nil)
	}
	v.Publish(t, "q", amqp.Publishing{MessageId: "good", ReplyTo: "answers"})
	rabbittest.Eventually(t, 30*time.Second, func() bool { return v.Ready(t, "answers") == 1 }, "the good one is answered")
	empty(t, v, "q", "q.dead")
	messages, repeats := done.counts()
	equal(t, []int{messages, repeats}, []int{3 + made, 0})
	equal(t, strings.Count(r.log.String(), "msg=connected"), 1)
	for _, want := range []string{"the content-type has 305 bytes, of 255 at most", "message size 100001", "nobody waits for the result any more"} {
		if !contains(r.log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

// TestLargestHeaders has the broker say what fits into its frames, whose size it sets: the
// last byte that Warren sends it takes. It lets 8 more pass, which no library reads.
func TestLargestHeaders(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "q", nil)
	set := func(bytes int) {
		if _, err := v.Node.Eval(fmt.Sprintf("application:set_env(rabbit, frame_max, %d)", bytes)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { set(131072) })
	for _, limit := range []int{8192, 131072, 0} { // 0 is none, and then it is Warren's
		set(limit)
		frameMax := cmp.Or(limit, 131072)
		conn := dial(t, v.URL)
		send := func(more int) error {
			conn.User = "" // it may sign what it sends
			fill := len(fullHeaders(frameMax, 0)) - 4 - len("\x04fillS\x00\x00\x00\x00") + more
			return conn.Publish(t.Context(), broker.Outgoing{Key: "q", Message: amqp.Publishing{
				DeliveryMode: amqp.Persistent, MessageId: "m", Headers: amqp.Table{"fill": strings.Repeat("x", fill)},
			}})
		}
		if err := send(0); err != nil {
			t.Errorf("limit %d: the broker does not take what fits: %v", limit, err)
		}
		if err := send(1); !errors.Is(err, broker.ErrUnsendable) || conn.IsClosed() {
			t.Errorf("limit %d: got %v", limit, err)
		}
		if limit == 0 {
			continue
		}
		properties := rabbittest.RawProperties(map[string]any{"headers": fullHeaders(frameMax, -9), "message-id": "m", "delivery-mode": byte(2)})
		err := rabbittest.DialRaw(t, v.URL).Publish("", "q", properties, nil)
		if reply, ok := errors.AsType[*amqp.Error](err); !ok || reply.Code != amqp.FrameError {
			t.Errorf("limit %d: of 9 bytes more the broker says %v", limit, err)
		}
	}
}

// TestWhateverIsSentCostsNoConnection publishes properties of any bytes.
func TestWhateverIsSentCostsNoConnection(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "q", nil)
	conn := dial(t, v.URL)
	objections := 0
	for _, text := range []string{"", "x", "\x00", "\xff", strings.Repeat("\xff", 255), strings.Repeat("\x00", 255), strings.Repeat("€", 33), strings.Repeat("€", 34), strings.Repeat("\xff", 100), strings.Repeat("a", 256), "-1", "1.5", "99999999999999999999"} {
		for name, set := range map[string]func(*amqp.Publishing){
			"content-type":     func(m *amqp.Publishing) { m.ContentType = text },
			"content-encoding": func(m *amqp.Publishing) { m.ContentEncoding = text },
			"correlation-id":   func(m *amqp.Publishing) { m.CorrelationId = text },
			"reply-to":         func(m *amqp.Publishing) { m.ReplyTo = text },
			"expiration":       func(m *amqp.Publishing) { m.Expiration = text },
			"message-id":       func(m *amqp.Publishing) { m.MessageId = text },
			"type":             func(m *amqp.Publishing) { m.Type = text },
			"user-id":          func(m *amqp.Publishing) { m.UserId = text },
			"app-id":           func(m *amqp.Publishing) { m.AppId = text },
			"header":           func(m *amqp.Publishing) { m.Headers = amqp.Table{text: []any{text, amqp.Table{text: []byte(text)}}} },
			"CC":               func(m *amqp.Publishing) { m.Headers = amqp.Table{"CC": text} },
			"direct reply":     func(m *amqp.Publishing) { m.ReplyTo = "amq.rabbitmq.reply-to" },
		} {
			m := amqp.Publishing{}
			set(&m)
			err := conn.Publish(t.Context(), broker.Outgoing{Key: "q", Message: m})
			switch {
			case conn.IsClosed():
				t.Fatalf("%s %.20q has closed the connection: %v", name, text, err)
			case broker.IsObjection(err):
				objections++
			case err != nil && name != "user-id":
				t.Errorf("%s %.20q: %v", name, text, err)
			}
		}
		for _, exchange := range []string{"", "amq.headers", text} {
			err := conn.Publish(t.Context(), broker.Outgoing{Exchange: exchange, Key: text, Message: amqp.Publishing{}})
			if conn.IsClosed() {
				t.Fatalf("exchange %.20q, key %.20q: the connection is closed: %v", exchange, text, err)
			}
		}
	}
	t.Logf("%d objections", objections)
}

// TestDirectReply has whoever asked get the reply without a queue.
func TestDirectReply(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	run(t, []string{v.URL}, Queue{Name: "q", Processor: ProcessorFunc(func(_ context.Context, _ Delivery, s *Scope) error {
		s.SetResult(Result{Body: []byte("answer")})
		return nil
	})})
	ch := v.Channel(t)
	answers, err := ch.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.PublishWithContext(t.Context(), "", "q", false, false, amqp.Publishing{ReplyTo: "amq.rabbitmq.reply-to", CorrelationId: "c"}); err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-answers:
		equal(t, a.CorrelationId+" "+string(a.Body), "c answer")
	case <-time.After(30 * time.Second):
		t.Fatal("there is no answer")
	}
}

// TestAnothersName gives Warren a name that is not the one by which the broker knows it.
// No message is at fault for that.
func TestAnothersName(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	failing := ProcessorFunc(func(context.Context, Delivery, *Scope) error { return errors.New("no") })
	r := runConfig(t, Config{Nodes: []string{v.URL}, User: "somebody", Queues: []Queue{{Name: "q", Processor: failing}}}, nil)
	v.Publish(t, "q", amqp.Publishing{MessageId: "m"})
	rabbittest.Eventually(t, 10*time.Second, func() bool { return contains(r.log, "set WARREN_AMQP_USER to that name") }, "the log says what to do")
	if _, err := r.end(); err != nil {
		t.Error(err)
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "q") == 1 }, "the message is still there")
	equal(t, v.Ready(t, "q.dead"), 0)

	runConfig(t, Config{Nodes: []string{v.URL}, User: "guest", Queues: []Queue{{Name: "q", MaxAttempts: 1, Processor: failing}}}, nil)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "q.dead") == 1 }, "under that name it is dead-lettered")
}

// TestAForgedDeathEndsNoQueue dead-letters messages with an x-death that no broker has
// written: RabbitMQ 3.10 ends a classic queue that is to dead-letter one by itself, again
// and again. So Warren rejects none of them.
func TestAForgedDeathEndsNoQueue(t *testing.T) {
	t.Parallel()
	forged := []any{true, "soon"}
	for name, headers := range map[string]amqp.Table{
		"and headers said to be unreadable": {"x-death": forged, broker.HeaderUnreadable: "807354142109905"},
		"and no room for an error":          {"x-death": forged, "fill": strings.Repeat("x", 130_000)},
	} {
		for _, kind := range []string{Quorum, Classic} {
			t.Run(kind+" "+name, func(t *testing.T) {
				v := rabbittest.NewVhost(t)
				done := newLedger()
				r := run(t, []string{v.URL}, Queue{Name: "q", Type: kind, MaxAttempts: 1, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
					if d.MessageID == "innocent" {
						done.write(d)
						return nil
					}
					return errors.New(strings.Repeat("no ", 1000))
				})})
				v.Publish(t, "q", amqp.Publishing{MessageId: "m", Headers: headers, DeliveryMode: amqp.Persistent}, amqp.Publishing{MessageId: "innocent"})
				rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "q.dead") == 1 && len(done.of("innocent")) == 1 }, "one is dead, the other is done")
				empty(t, v, "q")
				if contains(r.log, "the broker has ended the consumer") {
					t.Error("the broker has ended the queue")
				}
			})
		}
	}
}
