package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A fiend makes messages that nobody in their right mind would publish, the same ones for
// the same seed.
type fiend struct {
	*rand.Rand
	frameMax int
	user     string // its own name
}

// often is true so many times in a hundred.
func (f fiend) often(percent int) bool { return f.IntN(100) < percent }

func (f fiend) bytes(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(f.Uint32())
	}
	return string(b)
}

// text is of any charset, and at most so long.
func (f fiend) text(most int) string {
	n := f.IntN(most + 1)
	if f.often(20) {
		n = most
	}
	switch f.IntN(6) {
	case 0:
		return f.bytes(n)
	case 1:
		return strings.Repeat("\x00", n)
	case 2:
		return strings.Repeat("\u202e€\U0001f407", most)[:n] // cut within a character, perhaps
	case 3:
		return strings.Repeat("\x1b[2J\r\n'\"$(id)`;{{.}}%s", most)[:n]
	case 4:
		return strconv.FormatInt(int64(f.Uint64()), 10)[:min(n, 15)]
	}
	return strings.Repeat("a", n)
}

// value is of any type, also of none that there is.
func (f fiend) value(depth int) []byte {
	sizes := map[byte]int{'t': 1, 'B': 1, 'b': 1, 's': 2, 'u': 2, 'I': 4, 'i': 4, 'f': 4, 'D': 5, 'l': 8, 'd': 8, 'T': 8, 'V': 0}
	kind := "tBbsuIifDldTVSSxAF"[f.IntN(18)]
	if f.often(1) {
		kind = byte(f.Uint32())
	}
	switch size, plain := sizes[kind]; {
	case plain:
		return append([]byte{kind}, f.bytes(size)...)
	case kind == 'F' && depth > 0:
		return rabbittest.RawNested(f.table(depth - 1))
	case kind == 'A' && depth > 0:
		var values [][]byte
		for range f.IntN(4) {
			values = append(values, f.value(depth-1))
		}
		return rabbittest.RawArray(values...)
	default:
		value := rabbittest.RawString(f.text(1000))
		if kind == 'x' || f.often(2) {
			value[0] = kind
		}
		return value
	}
}

func (f fiend) table(depth int) []byte {
	names := []string{"x-delay", "x-warren-attempt", "x-warren-error", "x-warren-reply-to", "x-warren-routing-key", "x-warren-unreadable", "x-delivery-count", "traceparent", "x-death", "CC"}
	var fields [][]byte
	for range f.IntN(6) {
		name := f.text(255)
		value := f.value(depth)
		if f.often(20) {
			if name = names[f.IntN(len(names))]; name == "x-delay" { // none that has anybody wait for days
				delays := [][]byte{rabbittest.RawInt(int64(f.IntN(1500))), rabbittest.RawInt(-1), rabbittest.RawInt(1 << 62), rabbittest.RawString("soon"), rabbittest.RawNested(f.table(0)), {'V'}}
				value = delays[f.IntN(len(delays))]
			}
		}
		fields = append(fields, rabbittest.RawField(name, value))
	}
	return rabbittest.RawTable(fields...)
}

func (f fiend) headers() []byte {
	switch f.IntN(30) {
	case 0:
		return rabbittest.RawDeep(30 + f.IntN(6))
	case 1:
		return rabbittest.RawDeep(f.IntN(3000))
	case 2:
		return rabbittest.RawWide(8190 + f.IntN(5))
	case 3:
		return rabbittest.RawTable(rabbittest.RawField("l", rabbittest.RawLong(8190+f.IntN(5))))
	case 4:
		return rabbittest.RawTable(rabbittest.RawField("l", rabbittest.RawString(strings.Repeat("x", f.frameMax-f.IntN(1000)))))
	case 5:
		fill := rabbittest.RawString(strings.Repeat("x", max(0, f.frameMax-500-f.IntN(1000))))
		return rabbittest.RawTable(rabbittest.RawField("l", fill), rabbittest.RawField("d", rabbittest.RawNested(rabbittest.RawDeep(33))))
	}
	return f.table(f.IntN(6))
}

func (f fiend) properties(id int) []byte {
	p := map[string]any{"headers": f.headers(), "delivery-mode": byte(2)}
	for _, name := range []string{"content-type", "content-encoding", "correlation-id", "type", "app-id", "cluster-id"} {
		if f.often(30) {
			p[name] = f.text(255)
		}
	}
	if f.often(90) { // or it has none; no two have the same
		p["message-id"] = strconv.Itoa(id) + " " + f.text(240)
	}
	if f.often(30) {
		to := []string{"answers", f.text(255), "warren.wait.x", "innocent", "nobody", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to." + f.text(200)}
		p["reply-to"] = to[f.IntN(len(to))]
	}
	if f.often(10) {
		p["priority"] = byte(f.Uint32())
	}
	if f.often(10) {
		p["timestamp"] = f.Uint64()
	}
	if f.often(5) {
		p["expiration"] = []string{"0", "100000", f.text(20)}[f.IntN(3)]
	}
	if f.often(3) {
		p["user-id"] = []string{"guest", f.user, f.text(255)}[f.IntN(3)]
	}
	if f.often(5) {
		p["delivery-mode"] = byte(f.Uint32())
	}
	return rabbittest.RawProperties(p)
}

func (f fiend) body(good string) []byte {
	switch f.IntN(12) {
	case 0:
		return nil
	case 1:
		return []byte(f.bytes(f.IntN(2000)))
	case 2:
		return bytes.Repeat([]byte("["), f.IntN(100_000))
	case 3:
		return make([]byte, f.IntN(2<<20))
	case 4:
		return []byte("\xef\xbb\xbf" + good)
	case 5:
		return []byte(good[:f.IntN(len(good))])
	case 6:
		return []byte("\x1f\x8b" + f.bytes(100))
	case 7:
		return []byte(strings.Replace(good, "a", `\ud800`, 1))
	case 8:
		return []byte(strings.Replace(good, "a", f.text(100), 1))
	case 9:
		return []byte(strings.ReplaceAll(good, "a", "9e999"))
	}
	return []byte(good)
}

// knob is a variable that makes a test longer or other than it is in CI.
func knob[T any](t *testing.T, name string, usual T, parse func(string) (T, error)) T {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	value, err := parse(text)
	if err != nil {
		t.Fatalf("%s is %q: %v", name, text, err)
	}
	return value
}

// TestHostileMessages publishes messages of a fiend, 2,000 at least, to six processors on
// queues of both types, beside a queue that is to notice nothing of it. What the broker
// takes is done, once, or is a dead letter. WARREN_TEST_HOSTILE is for how long it
// publishes, and WARREN_TEST_SEED which messages.
func TestHostileMessages(t *testing.T) {
	const least, innocentEvery = 2000, 5
	lasting := knob(t, "WARREN_TEST_HOSTILE", 20*time.Second, time.ParseDuration)
	seed := knob(t, "WARREN_TEST_SEED", 11, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
	t.Logf("WARREN_TEST_SEED=%d", seed)
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if served.Add(1)%10 == 0 {
			http.Error(w, "no", http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", strings.Repeat("t", 305))
	}))
	t.Cleanup(server.Close)
	v := rabbittest.NewVhost(t)
	v.Declare(t, "answers", nil)
	dir := t.TempDir()
	ledger := filepath.Join(dir, "ledger")
	folder := sqlFolder(t, map[string]string{"one": "-- param: a int\nSELECT :a AS n"})
	processors := map[string]struct {
		good     string
		settings []string
	}{
		"log":     {`{"a": 1}`, nil},
		"command": {`{"a": 1}`, []string{"COMMAND=/bin/cat"}},
		"webhook": {`{"a": 1}`, []string{"URL=" + server.URL}},
		"email":   {`{"to": "a@b.c", "subject": "a", "text": "a"}`, []string{"MAILDIR=" + filepath.Join(dir, "mail"), "FROM=shop@example.com"}},
		"sql":     {`{"statement": "one", "params": {"a": 5}}`, []string{"STATEMENTS=" + folder}},
		"report":  {`{"report": "one", "params": {"a": 5}}`, []string{"REPORTS=" + folder, "OUTPUT=" + filepath.Join(dir, "reports")}},
	}
	env := []string{
		"WARREN_AMQP_URL=" + v.URL, "WARREN_ADMIN_ADDR=127.0.0.1:0", "WARREN_DATABASE_URL=sqlite:" + filepath.Join(dir, "warren.db"), "WARREN_MIGRATE=true",
		"WARREN_QUEUE_INNOCENT_PROCESSOR=command", "WARREN_QUEUE_INNOCENT_COMMAND=/bin/sh -c 'read -r id; echo $id >> " + ledger + "'",
	}
	queues, names := []string{"innocent"}, []string{"command", "email", "log", "report", "sql", "webhook"}
	var targets []string
	for _, name := range names {
		for _, queueType := range []string{"quorum", "classic"} {
			queue := name + queueType
			prefix := "WARREN_QUEUE_" + strings.ToUpper(queue) + "_"
			env = append(env, prefix+"PROCESSOR="+name, prefix+"TYPE="+queueType, prefix+"MAX_ATTEMPTS=2", prefix+"RETRY_BASE=100ms", prefix+"RETRY_MAX=1s")
			for _, s := range processors[name].settings {
				env = append(env, prefix+s)
			}
			queues, targets = append(queues, queue), append(targets, queue)
		}
	}
	env = append(env, "WARREN_QUEUES="+strings.Join(queues, ","))
	d := start(t, env...)
	rabbittest.Eventually(t, 30*time.Second, func() bool { return strings.Count(d.log.String(), "msg=consuming") == len(queues) }, "all queues are consumed")
	url := d.adminURL(t)

	// What comes from Warren's own user is believed.
	user := "fiend-" + strings.ToLower(v.Name)
	publisher := v.AddUser(t, user, "pw", "^$", ".*", "^$")
	raw := rabbittest.DialRaw(t, publisher)
	f := fiend{rand.New(rand.NewPCG(seed, seed)), raw.FrameMax(), user}
	taken, refused, innocent := make(map[string]int), 0, 0
	hostile, began := 0, time.Now()
	for ; hostile < least || time.Since(began) < lasting; hostile++ {
		i := hostile
		queue := targets[i%len(targets)]
		err := raw.Publish("", queue, f.properties(i), f.body(processors[names[i%len(targets)/2]].good))
		switch _, objection := errors.AsType[*amqp091.Error](err); {
		case err == nil:
			taken[queue]++
		case objection:
			refused++
			raw = rabbittest.DialRaw(t, publisher)
		default:
			t.Fatalf("message %d to %s: %v", i, queue, err)
		}
		if i%innocentEvery == 0 {
			innocent++
			id := strconv.Itoa(i)
			v.Publish(t, "innocent", amqp091.Publishing{MessageId: id, Body: []byte(id + "\n")})
		}
	}

	published := time.Since(began)

	// ended returns how many messages of a queue were done and how many are dead.
	ended := func(metrics, queue string) (done, dead int) {
		if m := regexp.MustCompile(`(?m)^warren_attempts_total\{[^}]*warren_queue="` + queue + `"[^}]*warren_verdict="ack"[^}]*\} (\d+)`).FindStringSubmatch(metrics); m != nil {
			done, _ = strconv.Atoi(m[1])
		}
		return done, v.Ready(t, queue+".dead")
	}
	var metrics string
	for _, queue := range targets {
		rabbittest.Eventually(t, time.Minute, func() bool {
			_, metrics = fetch(t, url+"/metrics")
			done, dead := ended(metrics, queue)
			return done+dead >= taken[queue] && v.Ready(t, queue)+v.Unacked(t, queue) == 0
		}, "all of "+queue+" has ended")
	}
	rabbittest.Eventually(t, time.Minute, func() bool { return len(lines(t, ledger)) >= innocent }, "the innocent are done")
	peak := peakResident(t, d.Process.Pid)
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)

	eachOnce(t, lines(t, ledger), innocent)
	var report []string
	for _, queue := range targets {
		done, dead := ended(metrics, queue)
		if done+dead != taken[queue] || v.Ready(t, queue) != 0 {
			t.Errorf("%s: %d were done, %d are dead, %d are left, of %d", queue, done, dead, v.Ready(t, queue), taken[queue])
		}
		report = append(report, fmt.Sprintf("%s %d/%d", queue, done, dead))
		for range dead {
			if m := rabbittest.RawTake(t, v.URL, queue+".dead"); !bytes.Contains(m.Properties, []byte("x-warren-error")) && !bytes.Contains(m.Properties, []byte("x-death")) {
				t.Errorf("%s: a dead letter says nothing of why it is one: %.300q", queue, m.Properties)
			}
		}
	}
	t.Logf("%d in %v, refused %d; done/dead: %s; at most %d MiB resident", hostile, published.Round(time.Second), refused, strings.Join(report, ", "), peak>>20)
	if lost := strings.Count(d.log.String(), "connection lost"); lost != 0 {
		t.Errorf("the connection was lost %d times", lost)
	}
	if peak > 256<<20 {
		t.Errorf("at most %d bytes of memory were resident, want at most 256 MiB", peak)
	}
}
