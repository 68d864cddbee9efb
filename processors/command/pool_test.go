package command_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/command"
	"github.com/warrenmq/warren/processors/internal/result"
	"github.com/warrenmq/warren/processors/registry"
)

// poolSize is how many children the pools of tests have.
const poolSize = 8

// newPool makes the processor of cfg in mode pool. It is closed when the test has ended.
func newPool(t testing.TB, log *slog.Logger, cfg command.Config) consumer.Processor {
	t.Helper()
	cfg.Mode = "pool"
	return newPoolOf(t, poolSize, log, cfg)
}

func newPoolOf(t testing.TB, size int, log *slog.Logger, cfg command.Config) consumer.Processor {
	t.Helper()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cfg.Mode = "pool"
	p, err := cfg.Open(registry.Queue{Name: "commands", Concurrency: size}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// answering are the lines of a handler in Python. What it answers a message m with is the value
// of the expression, with the message's id; body is its body.
func answering(expression string) []string {
	return append(handling(), "    answer(m, "+expression+")")
}

// handling are the lines of one to which those are added that handle m, indented.
func handling(before ...string) []string {
	lines := []string{
		"import json, os, sys, time",
		"def answer(m, fields):",
		"    print(json.dumps({'id': m['id']} | fields), flush=True)",
	}
	lines = append(lines, before...)
	return append(lines, "for line in sys.stdin:", "    m = json.loads(line)", "    body = m['body']")
}

// run gives p one message with that body and returns its result and error.
func run(t *testing.T, p consumer.Processor, body string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errors.New("the test has waited for a minute"))
	defer cancel()
	r, err := consumertest.Run(ctx, p, consumer.Delivery{Queue: "commands", ReplyTo: "answers", Body: []byte(body)})
	return string(r.Body), err
}

// wantOK runs it and wants that result.
func wantOK(t *testing.T, p consumer.Processor, body, want string) {
	t.Helper()
	if got, err := run(t, p, body); err != nil || got != want {
		t.Errorf("%.100q: result %q with error %v, want %q", body, got, err, want)
	}
}

// pidOf has p answer with the process id of the child; its handler is one of pids.
func pidOf(t *testing.T, p consumer.Processor) string {
	t.Helper()
	pid, err := run(t, p, "pid")
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// pids is a handler that executes the body, which may set result; pid is a body of its own.
func pids(t *testing.T) string {
	t.Helper()
	return pythonScript(t, append(handling(),
		"    result = os.getpid()",
		"    if body != 'pid':",
		"        exec(body)",
		"    answer(m, {'verdict': 'ok', 'result': result})")...)
}

func TestChildIsToldOfTheMessage(t *testing.T) {
	p := newPool(t, nil, command.Config{Command: pythonScript(t, answering("{'verdict': 'ok', 'result': m}")...)})
	deadline := time.Now().Add(time.Hour)
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	defer cancel()
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01", "tracestate": "vendor=2",
	})
	for _, test := range []struct {
		ctx  context.Context
		d    consumer.Delivery
		want string
	}{
		{t.Context(), consumer.Delivery{Queue: "orders", Attempt: 1, ReplyTo: "a"}, `{"id": 1, "body": "", "body_encoding": "utf-8", "queue": "orders", "exchange": "", "routing_key": "", ` +
			`"attempt": 1, "redelivered": false, "deadline": "", "properties": {"message_id": "", "type": "", "content_type": "application/json", "content_encoding": "", ` +
			`"correlation_id": "", "reply_to": "a", "app_id": "", "user_id": "", "priority": 0, "timestamp": ""}, "headers": {}, "traceparent": "", "tracestate": ""}`},
		{ctx, consumer.Delivery{
			Queue: "orders", Body: []byte("a\n<\u2028\x00\u00e4"), MessageID: "4711\xff", Attempt: 3, Redelivered: true, Exchange: "shop", RoutingKey: "order.created", Type: "order",
			ContentType: "text/plain", ContentEncoding: "br", CorrelationID: "c-1", ReplyTo: "answers", AppID: "shop/1.4", UserID: "ada", Priority: 7, Timestamp: time.Unix(1700000000, 0),
			Headers: map[string]any{"nan": math.NaN(), "bytes": []byte{1, 2}, "table": map[string]any{"list": []any{true, "x\n"}}},
		}, `{"id": 2, "body": "a\n<\u2028\u0000\u00e4", "body_encoding": "utf-8", "queue": "orders", "exchange": "shop", "routing_key": "order.created", ` +
			`"attempt": 3, "redelivered": true, "deadline": "` + deadline.UTC().Format("2006-01-02T15:04:05.000Z") + `", "properties": {"message_id": "4711\ufffd", "type": "order", ` +
			`"content_type": "text/plain", "content_encoding": "br", "correlation_id": "c-1", "reply_to": "answers", "app_id": "shop/1.4", "user_id": "ada", "priority": 7, ` +
			`"timestamp": "2023-11-14T22:13:20Z"}, "headers": {"bytes": "AQI=", "nan": "NaN", "table": {"list": [true, "x\n"]}}, ` +
			`"traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01", "tracestate": "vendor=2"}`},
		{t.Context(), consumer.Delivery{ReplyTo: "a", Body: []byte("\xff\n")}, `{"id": 3, "body": "/wo=", "body_encoding": "base64", "queue": "", "exchange": "", "routing_key": "", ` +
			`"attempt": 0, "redelivered": false, "deadline": "", "properties": {"message_id": "", "type": "", "content_type": "application/json", "content_encoding": "", ` +
			`"correlation_id": "", "reply_to": "a", "app_id": "", "user_id": "", "priority": 0, "timestamp": ""}, "headers": {}, "traceparent": "", "tracestate": ""}`},
	} {
		r, err := consumertest.Run(test.ctx, p, test.d)
		if err != nil || string(r.Body) != test.want {
			t.Errorf("the child was told\n%s (%v), want\n%s", r.Body, err, test.want)
		}
	}
}

func TestAnswerDecides(t *testing.T) {
	p := newPool(t, nil, command.Config{Command: pythonScript(t, append(handling(), "    answer(m, json.loads(body))")...)})
	for answer, want := range map[string]struct{ verdict, text string }{
		`{"verdict": "ok"}`:                                                        {"ack", ""},
		`{"verdict": "ok", "result": {"a":  [1]}}`:                                 {"ack", `{"a": [1]}`},
		`{"verdict": "ok", "result": "text"}`:                                      {"ack", `"text"`},
		`{"verdict": "retry"}`:                                                     {"retry", "the command answered retry"},
		`{"verdict": "retry", "reason": "busy"}`:                                   {"retry", "the command answered retry: busy"},
		`{"verdict": "retry", "reason": "a\u001b[1m\nb", "delay_seconds": 0.5}`:    {"retry", "the command answered retry:\na[1m\nb"},
		`{"verdict": "retry", "delay_seconds": 1e300}`:                             {"retry", "the command answered retry"},
		`{"verdict": "dead", "reason": "no such order"}`:                           {"dead", "the command answered dead: no such order"},
		`{"verdict": "dead"}`:                                                      {"dead", "the command answered dead"},
		`{"verdict": "unavailable", "reason": "no database"}`:                      {"unavailable", "the command answered unavailable: no database"},
		`{"verdict": "unavailable", "reason": "no database", "delay_seconds": 30}`: {"unavailable", "the command answered unavailable: no database"},
		`{"verdict": "retry", "reason": "` + strings.Repeat("x", 5000) + `"}`:      {"retry", "the command answered retry: " + strings.Repeat("x", 2048)},
	} {
		got, err := run(t, p, answer)
		if err != nil {
			got = err.Error()
		}
		if verdict := consumertest.Verdict(err); verdict != want.verdict || got != want.text {
			t.Errorf("%.100s: verdict %s with %q, want %s with %q", answer, verdict, got, want.verdict, want.text)
		}
	}
}

// What is no answer costs the message that it was written for, and no other; nor what is
// written after an answer the one that follows.
func TestGarbageCostsItsOwnMessage(t *testing.T) {
	for name, test := range map[string]struct{ handle, want string }{
		"text":               {"print('debugging', flush=True)", `is no answer, "debugging": invalid character 'd'`},
		"blank line":         {"print(flush=True)", `is no answer, "": it is empty`},
		"binary":             {"os.write(1, bytes(range(256))); time.sleep(600)", `is no answer, "\x00\x01`},
		"no newline":         {"os.write(1, b'x' * (5 << 20)); time.sleep(600)", "it is longer than 2097152 bytes"},
		"an unfinished line": {"os.write(1, json.dumps({'id': m['id'], 'verdict': 'ok'}).encode()); os._exit(0)", "it has no newline"},
		"another id":         {"answer({'id': 4711}, {'verdict': 'ok'})", "the id is 4711, but what is asked has the id "},
		"no id":              {"print('{\"verdict\": \"ok\"}', flush=True)", "it has no id"},
		"id as text":         {"answer({'id': '1'}, {'verdict': 'ok'})", "cannot unmarshal string"},
		"no verdict":         {"answer(m, {})", "it has not one of verdict, log and progress"},
		"two of them":        {"answer(m, {'verdict': 'ok', 'log': ''})", "it has not one of verdict, log and progress"},
		"unknown verdict":    {"answer(m, {'verdict': 'OK'})", `the verdict is "OK"; it must be ok, retry, dead or unavailable`},
		"a slip":             {"answer(m, {'verdict': 'retry', 'delay': 30})", `unknown field "delay"`},
		"a negative delay":   {"answer(m, {'verdict': 'retry', 'delay_seconds': -1})", "delay_seconds is less than zero"},
		"a delayed end":      {"answer(m, {'verdict': 'dead', 'delay_seconds': 1})", "delay_seconds is less than zero, or not of retry"},
		"ok with a reason":   {"answer(m, {'verdict': 'ok', 'reason': 'x'})", "only retry, dead and unavailable have a reason"},
		"dead with a result": {"answer(m, {'verdict': 'dead', 'result': 1})", "only ok has a result"},
		"a level of nothing": {"answer(m, {'verdict': 'ok', 'level': 'warn'})", "only log has a level"},
		"an unknown level":   {"answer(m, {'log': 'x', 'level': 'loud'})", "unknown name"},
		"two objects":        {"print(json.dumps({'id': m['id'], 'verdict': 'ok'}) * 2, flush=True)", "something follows the object"},
		"a list":             {"print('[]', flush=True)", "cannot unmarshal array"},
		"nothing":            {"print('null', flush=True)", "it has no id"},
		"not UTF-8":          {`os.write(1, b'{"id": %d, "verdict": "dead", "reason": "\xff"}\n' % m['id'])`, "it is not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPoolOf(t, 1, nil, command.Config{Command: pids(t)})
			bad := test.handle + "\ntime.sleep(600)"
			for _, first := range []bool{true, false} {
				if !first {
					pidOf(t, p)
				}
				_, err := run(t, p, bad)
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasSuffix(err.Error(), "print everything else to standard error") || consumertest.Verdict(err) != "retry" {
					t.Errorf("got %v, want retry with %q", err, test.want)
				}
				pidOf(t, p)
			}
		})
	}
	for name, after := range map[string]string{
		"an answer twice": "answer(m, {'verdict': 'ok', 'result': 1})",
		"text":            "print('done', flush=True)",
		"a log line":      "answer(m, {'log': 'done'})",
		"megabytes":       "os.write(1, b'x' * (5 << 20))",
		"its end":         "os._exit(0)",
	} {
		t.Run(name+" after the answer", func(t *testing.T) {
			t.Parallel()
			p := newPoolOf(t, 1, nil, command.Config{Command: pythonScript(t, append(answering("{'verdict': 'ok', 'result': body}"), "    if body == 'bad':", "        "+after)...)})
			command.SetKillAfter(p, limit) // what has been written is read, however late
			for range 5 {
				wantOK(t, p, "bad", `"bad"`)
				wantOK(t, p, "good", `"good"`)
			}
		})
	}
}

// A message that ends a process which has worked others is given to a new one, where it
// alone can be to blame.
func TestMessageThatKillsItsProcess(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "journal")
	p := newPoolOf(t, 1, nil, command.Config{Command: pids(t)})
	kill := "open('" + journal + "', 'a').write(str(m['redelivered']) + '\\n')\nprint('bye', file=sys.stderr)\nos._exit(3)"
	for _, test := range []struct{ name, want string }{
		{"of a new process", "False"},
		{"of a new process again", "False"},
		{"of one that has worked", "False\nTrue"},
	} {
		if strings.Contains(test.name, "worked") {
			pidOf(t, p)
		}
		_ = os.Remove(journal)
		_, err := run(t, p, kill)
		if want := "the command ended without an answer: exit status 3: bye"; err == nil || err.Error() != want || consumertest.Verdict(err) != "retry" {
			t.Errorf("%s: got %v, want retry with %s", test.name, err, want)
		}
		if runs, err := os.ReadFile(journal); err != nil || strings.TrimSpace(string(runs)) != test.want {
			t.Errorf("%s: the runs were told %q (%v) of being redelivered, want %q", test.name, runs, err, test.want)
		}
	}
	pidOf(t, p)
	wantOK(t, p, "if not m['redelivered']: os._exit(3)\nresult = 'done'", `"done"`)
	if _, err := run(t, p, "os.kill(os.getpid(), 9)"); err == nil || err.Error() != "the command ended without an answer: signal: killed" {
		t.Errorf("killed: got %v", err)
	}
}

func TestWhoDiesYoungIsReplacedMoreAndMoreSlowly(t *testing.T) {
	p := newPoolOf(t, 1, nil, command.Config{Command: "sh -c 'echo no module >&2; exit 1'"})
	start := time.Now()
	for range 4 {
		if _, err := run(t, p, ""); err == nil || err.Error() != "the command ended without an answer: exit status 1: no module" {
			t.Errorf("got %v", err)
		}
	}
	if took, want := time.Since(start), 350*time.Millisecond; took < want { // 50, 100 and 200 ms
		t.Errorf("four processes were started within %v, want them to take %v", took, want)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, consumer.ErrTimeout)
	defer cancel()
	if _, err := consumertest.Run(ctx, p, consumer.Delivery{}); !errors.Is(err, consumer.ErrTimeout) {
		t.Errorf("got %v, want the timeout to end the wait", err)
	}
}

// Who hangs is killed with all that it has started, alone.
func TestTimeoutKillsOneChild(t *testing.T) {
	p := newPool(t, nil, command.Config{Command: pids(t)})
	const hang = "import signal, subprocess\n" +
		"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" +
		"child = subprocess.Popen(['sleep', '600'])\n" +
		"print('hanging', os.getpid(), child.pid, file=sys.stderr, flush=True)\n" +
		"time.sleep(600)"
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	hanging := make(chan string, 1)
	log := &stderrLog{onLine: func(line string) { hanging <- line }}
	ended := make(chan error, 1)
	go func() {
		_, err := consumertest.RunLog(ctx, p, consumer.Delivery{Body: []byte(hang)}, log.logger())
		ended <- err
	}()
	hung := strings.Fields(<-hanging)[1:]
	pid := pidOf(t, p)
	cancel(consumer.ErrTimeout)
	err := <-ended
	if want := consumer.ErrTimeout.Error() + ": signal: killed before any answer; an answer must be flushed to be seen: "; err == nil || !strings.HasPrefix(err.Error(), want) || !errors.Is(err, consumer.ErrTimeout) {
		t.Errorf("got %v, want %s", err, want)
	}
	waitGone(t, hung...)
	if got := pidOf(t, p); got != pid || slices.Contains(hung, pid) {
		t.Errorf("the process that is left is %s, want %s, and none of %v", got, pid, hung)
	}
}

// A body that fills the pipe of a child which does not read it waits no longer than the attempt.
func TestChildNeedNotRead(t *testing.T) {
	p := newPoolOf(t, 1, nil, command.Config{Command: "sleep 600"})
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, consumer.ErrTimeout)
	defer cancel()
	if _, err := consumertest.Run(ctx, p, consumer.Delivery{Body: make([]byte, 1<<20)}); !errors.Is(err, consumer.ErrTimeout) {
		t.Errorf("got %v, want the timeout", err)
	}
	closing := newPoolOf(t, 1, nil, command.Config{Command: "sh -c 'exec <&-; sleep 600'"})
	if _, err := run(t, closing, strings.Repeat("x", 1<<20)); err == nil || !strings.Contains(err.Error(), "ended without an answer: signal: terminated") {
		t.Errorf("a child that closes its standard input: got %v", err)
	}
}

func TestLargeBodiesAndResults(t *testing.T) {
	p := newPool(t, nil, command.Config{Command: pythonScript(t, "import json, sys", "for line in sys.stdin:", "    m = json.loads(line)",
		"    print('{\"id\": %d, \"verdict\": \"ok\", \"result\": \"%s\"}' % (m['id'], 'x' * int(m['body'].strip())), flush=True)")})
	const most = 1 << 20
	wantOK(t, p, strings.Repeat(" ", 4<<20)+fmt.Sprint(most-2), `"`+strings.Repeat("x", most-2)+`"`)
	wantOK(t, p, fmt.Sprint(most-1), string(result.TooLong().Body))
	wantOK(t, p, "0", `""`)
}

// A new version is in use with the next message; what is gone for now ends nobody.
func TestNewVersionIsPickedUp(t *testing.T) {
	version := func(n int) string {
		return strings.Join(answering(fmt.Sprintf("{'verdict': 'ok', 'result': %d}", n)), "\n") + "\n"
	}
	for name, with := range map[string]string{"program": "%s", "argument of an interpreter": "/usr/bin/python3 -u %s"} {
		path := pythonScript(t)
		put := func(n int) {
			t.Helper()
			if err := errors.Join(os.WriteFile(path+".new", []byte("#!/usr/bin/python3\n"+version(n)), 0o755), os.Rename(path+".new", path)); err != nil {
				t.Fatal(err)
			}
		}
		put(1)
		p := newPoolOf(t, 1, nil, command.Config{Command: fmt.Sprintf(with, path)})
		wantOK(t, p, "", "1")
		put(2)
		wantOK(t, p, "", "2")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		wantOK(t, p, "", "2")
		put(3)
		wantOK(t, p, "", "3")
		if err := os.WriteFile(path, []byte("exit 0"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := run(t, p, ""); name == "program" && consumertest.Verdict(err) != "unavailable" || err == nil {
			t.Errorf("%s: a version that cannot work: got %v", name, err)
		}
		put(4)
		wantOK(t, p, "", "4")
	}
}

func TestChildrenThatCannotStart(t *testing.T) {
	path := pids(t)
	p := newPool(t, nil, command.Config{Command: path})
	if err := os.Rename(path, path+".gone"); err != nil {
		t.Fatal(err)
	}
	_, err := run(t, p, "pid")
	if consumertest.Verdict(err) != "unavailable" || !strings.Contains(err.Error(), "put back the program") {
		t.Errorf("got %v, want unavailable and a remedy", err)
	}
	if err := os.Rename(path+".gone", path); err != nil {
		t.Fatal(err)
	}
	pidOf(t, p)
}

func TestEnvironmentOfAPool(t *testing.T) {
	t.Setenv("WARREN_AMQP_URL", "amqp://user:secret@host")
	t.Setenv("LANG", "C")
	p := newPool(t, nil, command.Config{Env: "API_KEY=k3y", Command: `sh -c 'read -r _; env=$(env | grep -Ev "^(PWD|OLDPWD|SHLVL|_)=" | sort | tr "\n" " "); echo "{\"id\": 1, \"verdict\": \"ok\", \"result\": \"$env\"}"; read -r _'`})
	got, err := run(t, p, "")
	if want := `"API_KEY=k3y PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "`; err != nil || got != want {
		t.Errorf("the environment is %s (%v), want %s", got, err, want)
	}
}

func TestUserOfAPool(t *testing.T) {
	if os.Geteuid() != 0 {
		return // TestUser has the refusal
	}
	p := newPool(t, nil, command.Config{User: "nobody", Command: `sh -c 'read -r _; echo "{\"id\": 1, \"verdict\": \"ok\", \"result\": \"$(id -un)\"}"; read -r _'`})
	wantOK(t, p, "", `"nobody"`)
}

// As many messages at once as the queue works have as many children, and each of
// them its own answer; one after the other, they have one.
func TestChildrenAreFewAndStay(t *testing.T) {
	p := newPool(t, nil, command.Config{Command: pids(t)})
	pid := pidOf(t, p)
	for range 20 {
		if got := pidOf(t, p); got != pid {
			t.Fatalf("the process is %s, want %s, which is free", got, pid)
		}
	}
	var mu sync.Mutex
	seen := make(map[string]bool)
	var work sync.WaitGroup
	for w := range 3 * poolSize {
		work.Go(func() {
			for i := range 50 {
				want := fmt.Sprintf("%d-%d", w, i)
				got, err := run(t, p, "result = '"+want+" %d' % os.getpid()")
				id, pid, _ := strings.Cut(strings.Trim(got, `"`), " ")
				if err != nil || id != want {
					t.Errorf("message %s: got %q (%v)", want, got, err)
				}
				mu.Lock()
				seen[pid] = true
				mu.Unlock()
			}
		})
	}
	work.Wait()
	if len(seen) > poolSize || !seen[pid] {
		t.Errorf("%d processes have worked, want at most %d, and %s among them", len(seen), poolSize, pid)
	}
}

func TestCloseEndsChildren(t *testing.T) {
	left := filepath.Join(t.TempDir(), "left")
	const stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsys.stdin = iter(lambda: time.sleep(600), 0)\n"
	for name, test := range map[string]struct{ handle, left string }{
		"at its end of input": {"import atexit\natexit.register(lambda: open('" + left + "', 'w').write('input'))", "input"},
		"at SIGTERM": {"import signal\ndef leave(*_):\n    open('" + left + "', 'w').write('signal')\n    os._exit(0)\nsignal.signal(signal.SIGTERM, leave)\n" +
			"answer(m, {'verdict': 'ok', 'result': os.getpid()})\ntime.sleep(600)", "signal"},
		"not at all": {stubborn + "import subprocess\nsubprocess.Popen(['sleep', '600'])\nanswer(m, {'verdict': 'ok', 'result': os.getpid()})\ntime.sleep(600)", ""},
	} {
		_ = os.Remove(left)
		cfg := command.Config{Command: pids(t), Mode: "pool"}
		p, err := cfg.Open(registry.Queue{Name: "commands", Concurrency: 2}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		switch name { // for a busy machine
		case "at its end of input":
			command.SetKillAfter(p, limit)
		case "at SIGTERM":
			command.SetKillAfter(p, patience)
		}
		pid, err := run(t, p, test.handle)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
		if isRunning(t, pid) {
			t.Errorf("%s: the process is still running", name)
		}
		if got, _ := os.ReadFile(left); string(got) != test.left {
			t.Errorf("%s: it ended by %q, want %q", name, got, test.left)
		}
	}
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err == nil {
		t.Errorf("wait4 returned %d, want that no child is left", pid)
	}
}

// What a child writes belongs to the message that it has; log lines certainly.
func TestChildrenLog(t *testing.T) {
	seen := make(chan struct{})
	onLine := func(line string) {
		if line == "traceback" {
			close(seen)
		}
	}
	own, log, much := &stderrLog{onLine: onLine}, &stderrLog{onLine: onLine}, new(stderrLog)
	cfg := command.Config{Mode: "pool", Command: pythonScript(t, append(handling(),
		"    if body == 'much':",
		"        for i in range(70): answer(m, {'log': 'x' * 1000, 'level': 'debug'})",
		"    else:",
		"        print('traceback', file=sys.stderr, flush=True)",
		"        for i in range(2): answer(m, {'log': 'line %d\\n' % i})",
		"        answer(m, {'log': 'careful', 'level': 'warn'})",
		"        answer(m, {'progress': 40.5, 'text': 'half'})",
		"    answer(m, {'verdict': 'ok'})")...)}
	p, err := cfg.Open(registry.Queue{Name: "commands", Concurrency: 1}, own.logger())
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"", "much"} {
		logged := log
		if body != "" {
			<-seen // which may be after the answer
			logged = much
		}
		if _, err := consumertest.RunLog(t.Context(), p, consumer.Delivery{Body: []byte(body)}, logged.logger()); err != nil {
			t.Error(err)
		}
	}
	if err := p.(io.Closer).Close(); err != nil {
		t.Error(err)
	}
	lines := slices.Concat(own.lines, log.lines)
	slices.Sort(lines)
	if want := []string{"line 0\n", "line 1\n", "traceback"}; !slices.Equal(lines, want) || !slices.Contains(log.lines, "line 0\n") {
		t.Errorf("logged %q, %q of it for the first message, want %q", lines, log.lines, want)
	}
	if len(log.warnings) != 1 || attribute(log.warnings[0], "line").String() != "careful" {
		t.Errorf("warnings %v, want one, the child's", log.warnings)
	}
	if n := len(much.lines); n < 60 || n > 66 || len(much.warnings) != 1 {
		t.Errorf("%d lines of 1000 bytes are logged, with the warnings %v, want those of 64 KiB, and one warning of what is not", n, much.warnings)
	}
}
