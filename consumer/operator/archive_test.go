package operator

import (
	"bytes"
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
