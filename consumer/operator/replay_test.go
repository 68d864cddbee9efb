package operator

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

func quiet(Done) {}

// once checks that each of n messages is in exactly one of these lists.
func once(t *testing.T, n int, lists ...[]amqp.Delivery) {
	t.Helper()
	seen := make(map[string]int)
	for _, list := range lists {
		for _, d := range list {
			seen[d.MessageId]++
		}
	}
	for i := range n {
		if id := fmt.Sprintf("m-%d", i); seen[id] != 1 {
			t.Errorf("%s is there %d times, want once", id, seen[id])
		}
	}
	if len(seen) != n {
		t.Errorf("%d messages are there, want %d", len(seen), n)
	}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 50)
	v.Publish(t, "orders.dead", amqp.Publishing{MessageId: "again", Priority: 3, Expiration: "3600000", Headers: amqp.Table{
		"x-warren-reason": "exhausted", "x-warren-replayed": int64(2), "x-warren-copy": "a-name", "x-warren-reply-to": "answers", "CC": []any{"elsewhere"}, "x-delay": int64(5),
	}})
	v.Declare(t, "billing", amqp.Table{"x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "orders.dead"})
	ch := v.Channel(t)
	if err := ch.ExchangeDeclare("shop", "fanout", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("billing", "", "shop", false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Publish("shop", "order.made", false, false, amqp.Publishing{MessageId: "rejected", UserId: "guest", DeliveryMode: amqp.Persistent}); err != nil {
		t.Fatal(err)
	}
	other := v.AddUser(t, "shop", "password", "", ".*", "")
	conn, err := amqp.Dial(other)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	theirs, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.Publish("shop", "order.made", false, false, amqp.Publishing{MessageId: "forged", UserId: "shop", DeliveryMode: amqp.Persistent, Headers: amqp.Table{
		"x-warren-attempt": int64(19), "x-warren-reply-to": "payments", "x-warren-original-user-id": "root", "mine": "kept",
	}}); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "billing") == 2 }, "both are there")
	for range 2 {
		d, _, err := ch.Get("billing", false)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Reject(false); err != nil {
			t.Fatal(err)
		}
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead") == 53 }, "all are dead")

	var last Done
	done, err := brokerOf(v).Replay(t.Context(), "orders", filtered(t, "reason != permanent"), ReplayOptions{}, func(d Done) { last = d })
	if err != nil || done.All != 53 || done.Looked != 53 || done.Matched != 36 || done.Done != 36 || done.Left != 0 || !reflect.DeepEqual(last, done) {
		t.Errorf("got %+v, told %+v, error %v; want 36 of 53", done, last, err)
	}
	if n := v.Ready(t, "orders.dead"); n != 17 {
		t.Errorf("%d are dead still, want 17", n)
	}
	got := make(map[string]amqp.Delivery)
	for _, d := range append(v.Drain(t, "orders"), v.Drain(t, "billing")...) {
		got[d.MessageId] = d
	}
	one := got["m-1"]
	want := letter("orders", 1)
	for _, gone := range []string{"x-warren-reason", "x-warren-error", "x-warren-attempt", "x-warren-failed-at"} {
		delete(want.Headers, gone)
	}
	want.Headers["x-warren-replayed"] = int64(1)
	if fmt.Sprint(one.Headers) != fmt.Sprint(want.Headers) || string(one.Body) != string(want.Body) || one.UserId != "guest" || one.DeliveryMode != amqp.Persistent ||
		one.CorrelationId != "c" || one.ReplyTo != "answers" || one.Type != "order" || one.AppId != "shop" || !one.Timestamp.Equal(want.Timestamp) {
		t.Errorf("m-1: got %+v, want %+v", one, want)
	}
	again := got["again"]
	if again.Priority != 3 || again.Expiration != "" || again.RoutingKey != "orders" || fmt.Sprint(again.Headers) !=
		"map[x-delay:5 x-warren-original-CC:[elsewhere] x-warren-original-expiration:3600000 x-warren-replayed:3 x-warren-reply-to:answers]" {
		t.Errorf("again: got %+v", again)
	}
	for id, headers := range map[string]string{
		"rejected": "map[x-warren-exchange:shop x-warren-replayed:1 x-warren-routing-key:order.made]",
		"forged":   "map[mine:kept x-warren-exchange:shop x-warren-original-user-id:shop x-warren-replayed:1 x-warren-routing-key:order.made]",
	} {
		if d := got[id]; d.RoutingKey != "billing" || fmt.Sprint(d.Headers) != headers {
			t.Errorf("%s: got %s in queue %s, want %s in billing", id, fmt.Sprint(d.Headers), d.RoutingKey, headers)
		}
	}
	if got["rejected"].UserId != "guest" {
		t.Errorf("rejected: the user-id is %q", got["rejected"].UserId)
	}
}

func TestReplayToAnotherQueueWithAnotherBody(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	declare(t, v, "tests")
	bury(t, v, "orders", 3)
	done, err := brokerOf(v).Replay(t.Context(), "orders", Selection{IDs: []string{"m-1"}}, ReplayOptions{
		To: "tests", Body: func(l *Letter) ([]byte, error) { return append(l.Body(), "!"...), nil },
	}, quiet)
	if err != nil || done.Done != 1 || v.Ready(t, "orders.dead") != 2 {
		t.Errorf("got %+v and error %v, %d dead", done, err, v.Ready(t, "orders.dead"))
	}
	if got := v.Drain(t, "tests")[0]; string(got.Body) != `{"n":1}!` || got.Headers["x-warren-edited"] != digest([]byte(`{"n":1}`)) {
		t.Errorf("got %q with %v", got.Body, got.Headers)
	}
	boom := errors.New("boom")
	done, err = brokerOf(v).Replay(t.Context(), "orders", Selection{}, ReplayOptions{Body: func(*Letter) ([]byte, error) { return nil, boom }}, quiet)
	if err != nil || done.Left != 2 || !errors.Is(done.Why, boom) || v.Ready(t, "orders.dead") != 2 {
		t.Errorf("of what cannot be published: got %+v and error %v", done, err)
	}
}

// What the queue does not take stays dead.
func TestReplayThatIsRefused(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 500)
	done, err := brokerOf(v).Replay(t.Context(), "orders", Selection{}, ReplayOptions{To: "nobody"}, quiet)
	if err == nil || !strings.Contains(err.Error(), "there is no queue nobody") || done.Done != 0 || v.Ready(t, "orders.dead") != 500 {
		t.Errorf("to a queue that there is not: got %+v, %v, %d dead", done, err, v.Ready(t, "orders.dead"))
	}
	v.Declare(t, "full", amqp.Table{"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": int64(100)})
	done, err = brokerOf(v).Replay(t.Context(), "orders", Selection{}, ReplayOptions{To: "full"}, quiet)
	if err == nil || !strings.Contains(err.Error(), "queue full does not take it: it is full") || done.Done < 100 || done.Done == 500 {
		t.Errorf("to a queue that is full: got %+v, %v", done, err)
	}
	once(t, 500, v.Drain(t, "full"), v.Drain(t, "orders.dead"))
}

func TestReplayAtARate(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 21)
	begin := time.Now()
	done, err := brokerOf(v).Replay(t.Context(), "orders", Selection{}, ReplayOptions{Rate: 20}, quiet)
	if took := time.Since(begin); err != nil || done.Done != 21 || took < time.Second {
		t.Errorf("got %+v and error %v after %v, want 21 after a second at least", done, err, took)
	}
}

// What is interrupted is finished: nothing is lost, and nothing there twice.
func TestReplayThatIsInterrupted(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 2000)
	ctx, cancel := context.WithCancel(t.Context())
	done, err := brokerOf(v).Replay(ctx, "orders", Selection{}, ReplayOptions{}, func(d Done) {
		if d.Done == 700 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || done.Done < 700 || done.Done == 2000 || v.Ready(t, "orders.dead") != 2000-done.Done {
		t.Errorf("got %+v and error %v, %d dead", done, err, v.Ready(t, "orders.dead"))
	}
	once(t, 2000, v.Drain(t, "orders"), v.Drain(t, "orders.dead"))
}

// What is finished when that comes is not interrupted, though the rest is not left in its order.
func TestAFinishedActIsNotInterrupted(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 100)
	b := brokerOf(v)
	for name, act := range map[string]func(context.Context, Selection, func(Done)) (Done, error){
		"replay": func(ctx context.Context, which Selection, progress func(Done)) (Done, error) {
			return b.Replay(ctx, "orders", which, ReplayOptions{}, progress)
		},
		"discard": func(ctx context.Context, which Selection, progress func(Done)) (Done, error) {
			return b.Discard(ctx, "orders", which, nil, progress)
		},
	} {
		if _, _, err := b.Groups(t.Context(), "orders", Selection{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done, err := act(ctx, Selection{Most: 1}, func(Done) { cancel() })
		if err != nil || done.Done != 1 {
			t.Errorf("%s: got %+v and error %v", name, done, err)
		}
	}
	if n := v.Ready(t, "orders.dead"); n != 98 {
		t.Errorf("%d are dead, want 98", n)
	}
}

// Nor when that comes while a confirm is waited for, as Ctrl-C does and a job that is cancelled.
func TestReplayThatIsInterruptedAtAnyTime(t *testing.T) {
	t.Parallel()
	const n = 600
	for round := range 12 {
		v := rabbittest.NewVhost(t)
		declare(t, v, "orders")
		bury(t, v, "orders", n)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o, begun := ReplayOptions{}, false
		if round%2 > 0 {
			o.Rate = 3000
		}
		done, err := brokerOf(v).Replay(ctx, "orders", Selection{}, o, func(d Done) {
			if d.Done == 100+20*round && !begun {
				begun = true
				go cancel()
			}
		})
		if err != nil && !errors.Is(err, context.Canceled) || v.Ready(t, "orders.dead") != n-done.Done {
			t.Errorf("round %d: got %+v and error %v, %d dead", round, done, err, v.Ready(t, "orders.dead"))
		}
		once(t, n, v.Drain(t, "orders"), v.Drain(t, "orders.dead"))
	}
}

// The broker restarts again and again: nothing is lost, and what is there twice was under way.
func TestReplayWhileTheBrokerRestarts(t *testing.T) {
	t.Parallel()
	n, most := 1500, 1
	if os.Getenv("WARREN_TEST_LONG") != "" {
		n, most = 10_000, 8
	}
	node, err := rabbittest.Start(t.Context(), rabbittest.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Kill)
	b := Broker{Nodes: []string{node.URL("/")}}
	v := &rabbittest.Vhost{Node: node, Name: "/", URL: node.URL("/")}
	declare(t, v, "orders")
	bury(t, v, "orders", n)
	total := 0
	for restarts := 0; ; restarts++ {
		rabbittest.Eventually(t, time.Minute, func() bool { return v.Unacked(t, "orders.dead") == 0 }, "what the replay before had hold of is back")
		restarted := make(chan error, 1)
		asked := false
		done, err := b.Replay(t.Context(), "orders", Selection{}, ReplayOptions{}, func(d Done) {
			if restarts < most && d.Done >= 400 && !asked {
				asked = true
				go func() { restarted <- node.Restart(t.Context()) }()
			}
		})
		if total += done.Done; asked {
			if err := <-restarted; err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err == nil {
			break
		}
		t.Logf("after %d restarts and %d messages: %v", restarts, total, err)
		if restarts > 100 {
			t.Fatal("it does not come to its end")
		}
		<-time.After(200 * time.Millisecond)
	}
	seen := make(map[string]int)
	for _, d := range v.Drain(t, "orders") {
		seen[d.MessageId]++
	}
	repeats := 0
	for _, times := range seen {
		repeats += times - 1
	}
	if len(seen) != n || v.Ready(t, "orders.dead") != 0 || repeats > n/10 {
		t.Errorf("got %d messages, %d of them again, and %d dead; want %d, few, and none", len(seen), repeats, v.Ready(t, "orders.dead"), n)
	}
	t.Logf("%d repeats", repeats)
}

// A failing archive keeps what would have gone into it.
type failing struct {
	bytes.Buffer
	syncs int
}

func (f *failing) Sync() error {
	if f.syncs--; f.syncs < 0 {
		return errors.New("the disk is full")
	}
	return nil
}

func TestDiscard(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 100)
	done, err := brokerOf(v).Discard(t.Context(), "orders", Selection{}, &failing{syncs: 1}, quiet)
	if err == nil || !strings.Contains(err.Error(), "nothing is discarded that is not in the archive: the disk is full") || done.Done != 16 || v.Ready(t, "orders.dead") != 84 {
		t.Errorf("into an archive that fails: got %+v, %v, %d dead", done, err, v.Ready(t, "orders.dead"))
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "archive"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	which := filtered(t, "reason = permanent")
	which.Most = 20
	done, err = brokerOf(v).Discard(t.Context(), "orders", which, file, quiet)
	if err != nil || done.Done != 20 || v.Ready(t, "orders.dead") != 64 {
		t.Errorf("got %+v, %v, %d dead", done, err, v.Ready(t, "orders.dead"))
	}
	done, err = brokerOf(v).Discard(t.Context(), "orders", Selection{IDs: []string{"m-97"}}, nil, quiet)
	if err != nil || done.Done != 1 || v.Ready(t, "orders.dead") != 63 {
		t.Errorf("without an archive: got %+v, %v, %d dead", done, err, v.Ready(t, "orders.dead"))
	}

	// The archive brings them back, as they were.
	if _, err := file.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	imported := 0
	if err := brokerOf(v).PublishLines(t.Context(), file, LettersOf("orders"), func(string) error { imported++; return nil }); err != nil || imported != 20 {
		t.Errorf("import: got %d and error %v", imported, err)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead") == 83 }, "they are back")
	if got := ids(t, v, "orders", filtered(t, "reason = permanent and error ~ '451 try again' and attempts = 20 and age > 30m")); len(got) < 20 {
		t.Errorf("got %d of the reason permanent, want 20 at least", len(got))
	}
}

// A message is the same after an export and an import, whatever it consists of.
func TestLinesKeepWhatTheyAre(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	sent := amqp.Publishing{
		MessageId: "id\xff", Type: "t\"<&>", ContentType: "text/x", ContentEncoding: "gzip", CorrelationId: "c", ReplyTo: "r", AppId: "a", Priority: 7,
		Timestamp: time.Unix(1<<40, 0).UTC(), DeliveryMode: amqp.Persistent, Body: []byte("\x00\xff<binary>"),
		Headers: amqp.Table{
			"text": "ä\x1b", "bytes": []byte{0, 255}, "raw": "\xff", "int": int64(1) << 62, "whole": 2.0, "huge": 1e300, "half": 0.5, "yes": true, "none": nil,
			"time": time.Unix(1_700_000_000, 0).UTC(), "list": []any{int64(1), "x", amqp.Table{"deep": 3.0}}, "x-warren-reason": "permanent", "!odd": "kept",
			"list of the far": []any{time.Unix(1<<40, 0).UTC()}, "odd": amqp.Table{"!time": "zzz"}, "not UTF-8 \xff": "1", "not UTF-8 \xfe": "2",
			"hidden \u009b": "\u202e\u200b\x7f\U000e0041",
		},
	}
	v.Publish(t, "orders.dead", sent)
	var lines bytes.Buffer
	if _, err := brokerOf(v).Letters(t.Context(), "orders", Selection{}, func(l *Letter) error {
		line, err := l.Line()
		lines.Write(append(line, '\n'))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	v.Drain(t, "orders.dead")
	text := lines.String()
	if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("an export has a hidden character: %q", text[i:])
	}
	if err := brokerOf(v).PublishLines(t.Context(), &lines, LettersOf("orders"), func(string) error { return nil }); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	d := v.Drain(t, "orders.dead")[0]
	got := amqp.Publishing{
		MessageId: d.MessageId, Type: d.Type, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo,
		AppId: d.AppId, Priority: d.Priority, Timestamp: d.Timestamp.UTC(), DeliveryMode: d.DeliveryMode, Body: d.Body, Headers: d.Headers,
	}
	if at, ok := d.Headers["time"].(time.Time); ok {
		d.Headers["time"] = at.UTC()
	}
	if list, ok := d.Headers["list of the far"].([]any); ok {
		list[0] = list[0].(time.Time).UTC()
	}
	if !reflect.DeepEqual(got, sent) {
		t.Errorf("got %+v\nwant %+v\nby %s", got, sent, text)
	}
}

// What a publisher can say and JSON cannot keeps nobody from the letter, nor from those behind it.
func TestWhatJSONCannotSay(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	v.Publish(t, "orders.dead", amqp.Publishing{MessageId: "far", Timestamp: time.Unix(1<<40, 0), Headers: amqp.Table{"at": time.Unix(1<<40, 0)}},
		amqp.Publishing{MessageId: "far, says Warren", Headers: amqp.Table{"x-warren-reason": "permanent", "x-warren-failed-at": int64(1) << 60}},
		amqp.Publishing{MessageId: "behind"})
	if _, err := brokerOf(v).Letters(t.Context(), "orders", Selection{}, func(l *Letter) error {
		if _, err := json.Marshal(l); err != nil {
			t.Errorf("%s: %v", l.ID, err)
		}
		if _, err := l.Line(); err != nil {
			t.Errorf("%s: %v", l.ID, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	groups, _, err := brokerOf(v).Groups(t.Context(), "orders", Selection{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := json.Marshal(groups); err != nil {
		t.Errorf("groups: %v", err)
	}
	if _, err := json.Marshal(newWaiting(&amqp.Delivery{Headers: amqp.Table{"x-warren-not-before": int64(1) << 62}})); err != nil {
		t.Errorf("what waits: %v", err)
	}
	archive := &failing{syncs: 1}
	if done, err := brokerOf(v).Discard(t.Context(), "orders", Selection{}, archive, quiet); err != nil || done.Done != 3 {
		t.Errorf("got %+v and error %v", done, err)
	}
	if n, err := Lines(&archive.Buffer, func(Line) error { return nil }); n != 3 || err != nil {
		t.Errorf("the archive has %d lines, and error %v", n, err)
	}
}

// Headers are the same after they were written and read, whatever a publisher makes of them.
func FuzzHeadersOfLines(f *testing.F) {
	for _, seed := range []string{"", "t1b!xs1y", "\x01b!times3zzz", "T\x01a!xf\x7f\xf8\x00\x00\x00\x00\x00\x00", "\x02a\xffna\xfen", "\x01a!i\x00\x00\x00\x00\x00\x00\x00\x01", "\x01\x06!tableL\x01L\x02s\x01ab\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := maker{data}
		headers := m.table(0)
		line, err := Line{Headers: headers}.marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseLine(line)
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if got, want := fmt.Sprintf("%#v", back.Headers), fmt.Sprintf("%#v", headers); got != want && len(headers) > 0 { // NaN is like NaN so
			t.Errorf("got %s\nwant %s\nby %s", got, want, line)
		}
	})
}

// A maker makes headers of bytes.
type maker struct{ data []byte }

func (m *maker) next(n int) []byte {
	out := make([]byte, n)
	m.data = m.data[copy(out, m.data):]
	return out
}

func (m *maker) table(depth int) map[string]any {
	out := make(map[string]any)
	for range m.next(1)[0] % 8 {
		out[m.text()] = m.value(depth + 1)
	}
	return out
}

func (m *maker) text() string { return string(m.next(int(m.next(1)[0] % 8))) }

func (m *maker) value(depth int) any {
	number := func() int64 { return int64(binary.BigEndian.Uint64(m.next(8))) }
	switch kind := m.next(1)[0]; {
	case kind == 's':
		return m.text()
	case kind == 'b':
		return []byte(m.text())
	case kind == 'i':
		return number()
	case kind == 'f':
		return math.Float64frombits(uint64(number()))
	case kind == 'a':
		return time.Unix(number(), 0).UTC()
	case kind == 'y':
		return m.next(1)[0]%2 == 0
	case kind == 'T' && depth < 5:
		return m.table(depth)
	case kind == 'L' && depth < 5:
		list := []any{}
		for range m.next(1)[0] % 8 {
			list = append(list, m.value(depth+1))
		}
		return list
	}
	return nil
}

// The error of an import names the line that it is about, whichever is being published then.
func TestTheLineThatIsRefused(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "full", amqp.Table{"x-max-length": int64(40), "x-overflow": "reject-publish"})
	var in strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&in, "{\"message_id\":\"m-%d\",\"body\":\"x\"}\n", i)
	}
	n := 0
	err := brokerOf(v).PublishLines(t.Context(), strings.NewReader(in.String()), Target{Key: "full"}, func(id string) error {
		if id != fmt.Sprintf("m-%d", n) {
			t.Errorf("%s is published, want m-%d", id, n)
		}
		n++
		return nil
	})
	var wrong *LineError
	if !errors.As(err, &wrong) || wrong.Line != n+1 || n < 40 {
		t.Errorf("%d are published, and the error is %v", n, err)
	}

	// Nor is it one that is wrong in itself, behind that.
	err = brokerOf(v).PublishLines(t.Context(), strings.NewReader("\n{\"body\":\"x\"}\nno\n"), Target{Key: "full"}, func(string) error { return nil })
	if !errors.As(err, &wrong) || wrong.Line != 2 || !errors.Is(err, broker.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

// A line that is published though its id cannot be printed is not one to go on from, and of those
// that the broker has not answered for nobody knows.
func TestLinesThatMayBePublished(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "orders", amqp.Table{"x-queue-type": "quorum"})
	var in strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&in, "{\"message_id\":\"m-%d\",\"body\":\"x\"}\n", i)
	}
	n := 0
	err := brokerOf(v).PublishLines(t.Context(), strings.NewReader(in.String()), Target{Key: "orders"}, func(string) error {
		if n++; n == 100 {
			return syscall.ENOSPC
		}
		return nil
	})
	if !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), "line 100: published, but its id was not printed: ") {
		t.Errorf("got %v", err)
	}

	v.DeleteQueue(t, "orders")
	v.Declare(t, "orders", amqp.Table{"x-queue-type": "quorum"})
	proxy := rabbittest.NewProxy(t, v.Node.Addr())
	n = 0
	err = Broker{Nodes: []string{v.URLAt(proxy.Addr)}}.PublishLines(t.Context(), strings.NewReader(in.String()), Target{Key: "orders"}, func(string) error {
		if n++; n == 100 {
			proxy.Cut()
		}
		return nil
	})
	var wrong *LineError
	if !errors.As(err, &wrong) || wrong.Line <= 100 {
		t.Fatalf("got %v after %d", err, n)
	}
	_, said, _ := strings.Cut(err.Error(), " is not known of line")
	var first, last int
	if n, _ := fmt.Sscanf(said, "s %d to %d", &first, &last); n == 0 { // it was the only one
		_, _ = fmt.Sscanf(said, "%d", &first)
		last = first
	}
	if first != wrong.Line || last < first {
		t.Errorf("got %v", wrong)
	}
	for _, d := range v.Drain(t, "orders") {
		var id int
		if _, err := fmt.Sscanf(d.MessageId, "m-%d", &id); err != nil || id >= last {
			t.Errorf("%s is published: %v", d.MessageId, wrong)
		}
	}
}

// What a disk that is full has kept of an archive is what was discarded, in whole lines.
func TestAnArchiveOnAFullDisk(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 100)
	file, err := os.Create(filepath.Join(t.TempDir(), "archive"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	done, err := brokerOf(v).Discard(t.Context(), "orders", Selection{}, &filling{file, 20_000}, quiet)
	if err == nil || done.Done == 0 || v.Ready(t, "orders.dead") != 100-done.Done {
		t.Errorf("got %+v and error %v", done, err)
	}
	if _, err := file.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	if n, err := Lines(file, func(Line) error { return nil }); n != done.Done || err != nil {
		t.Errorf("the archive has %d lines and error %v, want %d", n, err, done.Done)
	}
}

// A filling disk has room for so many bytes.
type filling struct {
	*os.File
	room int
}

func (f *filling) Write(p []byte) (int, error) {
	n, err := f.File.Write(p[:min(len(p), f.room)])
	if f.room -= n; n < len(p) && err == nil {
		err = syscall.ENOSPC
	}
	return n, err
}

// An export that was cut off is good up to there.
func TestALineThatIsUnfinished(t *testing.T) {
	n, err := Lines(strings.NewReader("{\"body\":\"x\"}\n{\"body\":\"\u00e4"), func(Line) error { return nil })
	var wrong *LineError
	if n != 1 || !errors.Is(err, ErrUnfinished) || !errors.As(err, &wrong) || wrong.Line != 2 {
		t.Errorf("got %d lines and error %v", n, err)
	}
	if n, err := Lines(strings.NewReader("{\"body\":\"x\"}\n{\"body\":\"y\"}"), func(Line) error { return nil }); n != 2 || err != nil {
		t.Errorf("got %d lines and error %v", n, err)
	}
}

func TestLinesThatAreWrong(t *testing.T) {
	for text, want := range map[string]string{
		"{\"body\":\"x\"}\n\nno\n":                                  "line 3: invalid character 'o'",
		`{"body":"x","boddy":1}`:                                    `line 1: json: unknown field "boddy"`,
		`{"body":"x"}{"body":"y"}`:                                  "line 1: there is more than one message in it",
		`{"body":{"x":1}}`:                                          "neither a text nor",
		`{"body":"x","headers":{"a":{"!day":"1"}}}`:                 `line 1: header a: "!day" is no type`,
		`{"body":"x","priority":300}`:                               "line 1: json: cannot unmarshal number 300",
		`{"body":"x","timestamp":{"!unix":"abc"}}`:                  "is neither an instant such as",
		`{"body":"x","timestamp":{"!time":"zzz"}}`:                  "is neither an instant such as",
		`{"body":"x","timestamp":{"!unix":"99999999999999999999"}}`: "is neither an instant such as",
	} {
		if _, err := Lines(strings.NewReader(text), func(Line) error { return nil }); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

// What is published from lines as new messages bears nothing of an old failure.
func TestLinesAsNewMessages(t *testing.T) {
	l, err := ParseLine([]byte(`{"body":"x","expiration":"5000","user_id":"shop","headers":{"tenant":"blue","x-death":[],"x-warren-attempt":3,"x-warren-not-before":5}}`))
	if err != nil {
		t.Fatal(err)
	}
	o := Target{Key: "orders", MessageID: func() string { return "made" }}.outgoing(l)
	if m := o.Message; m.MessageId != "made" || m.Expiration != "5000" || m.UserId != "" || fmt.Sprint(m.Headers) != "map[tenant:blue x-warren-not-before:5]" || o.Purpose != broker.ForProgram {
		t.Errorf("got %+v", o)
	}
}

// What is reported as taken away is gone, however many were taken away at once: up to 32 are
// under way between the broker's channel and its queue, and it forgets others when the
// channel is closed.
func TestWhatWasTakenAwayIsGone(t *testing.T) {
	t.Parallel()
	const n = 1000
	for _, test := range []struct {
		name string
		act  func(Broker) (Done, error)
		left int
	}{
		{"all discarded", func(b Broker) (Done, error) { return b.Discard(t.Context(), "orders", Selection{}, nil, quiet) }, 0},
		{"half of them discarded", func(b Broker) (Done, error) {
			return b.Discard(t.Context(), "orders", filtered(t, "id ~ \"[02468]$\""), nil, quiet)
		}, n / 2},
		{"the first ones discarded", func(b Broker) (Done, error) {
			return b.Discard(t.Context(), "orders", Selection{Most: 500}, nil, quiet)
		}, n / 2},
		{"all replayed", func(b Broker) (Done, error) {
			return b.Replay(t.Context(), "orders", Selection{}, ReplayOptions{}, quiet)
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			declare(t, v, "orders")
			bury(t, v, "orders", n)
			done, err := test.act(brokerOf(v))
			if err != nil || done.Done != n-test.left {
				t.Fatalf("got %+v and error %v, want %d done", done, err, n-test.left)
			}
			// What the channel forgot is back in the queue as soon as that has heard of its end.
			rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Unacked(t, "orders.dead") == 0 }, "nobody holds any")
			if got := v.Ready(t, "orders.dead"); got != test.left {
				t.Errorf("%d are dead, want %d", got, test.left)
			}
		})
	}
}

// lookAtABusyQueue begins to look at n messages, which the queue does not hand out before its
// leader, which is suspended, is resumed.
func lookAtABusyQueue(t *testing.T, n int) (looked <-chan error, got *[]amqp.Delivery, resume func()) {
	t.Helper()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "orders.dead", amqp.Table{"x-single-active-consumer": true})
	bury(t, v, "orders", n+1)
	before := v.Channel(t) // which is the one that is handed messages
	if err := before.Qos(1, 0, false); err != nil {
		t.Fatal(err)
	}
	if _, err := before.Consume("orders.dead", "before", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Unacked(t, "orders.dead") == 1 }, "another is handed one")
	s, err := brokerOf(v).sweep(t.Context(), "orders.dead")
	if err != nil {
		t.Fatal(err)
	}
	got, ended := new([]amqp.Delivery), make(chan error, 1)
	go func() {
		var err error
		*got, err = s.Next(t.Context())
		ended <- s.end(err)
	}()
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { // the queue counts the active one alone
		consumers, err := v.Node.Eval(fmt.Sprintf("length(rabbit_amqqueue:consumers_all(<<%q>>))", v.Name))
		return err == nil && consumers == "2"
	}, "both consume")
	again := v.SuspendLeader(t, "orders.dead")
	return ended, got, func() {
		again()
		if err := before.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A queue that is too busy to say how many messages it has does not count as empty: the broker
// says 0 for it after a moment, and that nobody consumes it.
func TestABusyQueueIsNotEmpty(t *testing.T) {
	t.Parallel()
	const n = 9
	looked, got, resume := lookAtABusyQueue(t, n)
	select {
	case err := <-looked:
		t.Fatalf("got %d messages and error %v of a queue that does not answer", len(*got), err)
	case <-time.After(3 * time.Second):
	}
	resume()
	if err := <-looked; len(*got) != n || err != nil {
		t.Errorf("got %d messages and error %v, want the %d that were left", len(*got), err, n)
	}
}

// Nor does one that does not answer to begin with.
func TestALookBeginsAtABusyQueue(t *testing.T) {
	t.Parallel()
	const n = 3
	v := rabbittest.NewVhost(t)
	v.Declare(t, "orders.dead", nil)
	bury(t, v, "orders", n)
	resume := v.SuspendLeader(t, "orders.dead")
	type look struct {
		*sweep
		error
	}
	begun := make(chan look, 1)
	go func() {
		s, err := brokerOf(v).sweep(t.Context(), "orders.dead")
		begun <- look{s, err}
	}()
	select {
	case l := <-begun:
		if l.error == nil {
			t.Errorf("a queue that does not answer has %d messages", l.Total)
		}
		t.Log(l.error)
		resume()
	case <-time.After(3 * time.Second):
		resume()
		l := <-begun
		if l.error != nil {
			t.Fatal(l.error)
		}
		if l.Total != n {
			t.Errorf("%d messages, want %d", l.Total, n)
		}
		if err := l.end(nil); err != nil {
			t.Error(err)
		}
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead") == n }, "all are there afterwards")
}

// One that goes on not to answer ends the act, with the reason.
func TestAQueueThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	looked, got, resume := lookAtABusyQueue(t, 9)
	defer resume()
	if err := <-looked; len(*got) != 0 || err == nil || !strings.Contains(err.Error(), "queue orders.dead has not answered for 30s: it has no leader") {
		t.Errorf("got %d messages and error %v, want why it ended", len(*got), err)
	}
}
