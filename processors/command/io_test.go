package command_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/command"
	"github.com/warrenmq/warren/processors/internal/result"
)

func TestBodyIsStandardInput(t *testing.T) {
	for _, size := range []int{0, 1, 10 << 20} {
		body := bytes.Repeat([]byte{0xA5}, size)
		got := ask(t, newProcessor(t, command.Config{Command: "sha256sum -b"}), consumer.Delivery{Body: body})
		if want := fmt.Sprintf("%x *-\n", sha256.Sum256(body)); got != want {
			t.Errorf("the sum of a body of %d bytes is %q, want %q", size, got, want)
		}
	}
}

func TestBodyNeedNotBeRead(t *testing.T) {
	d := consumer.Delivery{Body: make([]byte, 10<<20)}
	if _, err := consumertest.Run(t.Context(), shell(t, "exit 0"), d); err != nil {
		t.Errorf("error %v, want nil", err)
	}
}

func TestResultIsBounded(t *testing.T) {
	const most = 1 << 20
	whole := consumer.Result{Body: make([]byte, most)}
	for _, test := range []struct {
		size    int
		replyTo string
		want    consumer.Result
	}{
		{most, "answers", whole},
		{most + 1, "answers", result.TooLong()},
		{16 * most, "", consumer.Result{}},
	} {
		log := new(stderrLog)
		p := shell(t, fmt.Sprintf("head -c %d /dev/zero", test.size))
		got, err := consumertest.RunLog(t.Context(), p, consumer.Delivery{ReplyTo: test.replyTo}, log.logger())
		if err != nil || got.ContentType != test.want.ContentType || !bytes.Equal(got.Body, test.want.Body) {
			t.Errorf("%d bytes, reply-to %q: a result of %d bytes of %q (%v), want %d of %q and no error",
				test.size, test.replyTo, len(got.Body), got.ContentType, err, len(test.want.Body), test.want.ContentType)
		}
		if told := len(log.warnings) == 1; told != (test.want.ContentType != "") {
			t.Errorf("%d bytes, reply-to %q: warnings %v", test.size, test.replyTo, log.warnings)
		}
	}
}

func TestFailureHasNoResult(t *testing.T) {
	result, err := consumertest.Run(t.Context(), shell(t, "echo half", "exit 1"), consumer.Delivery{ReplyTo: "answers"})
	if err == nil || len(result.Body) != 0 {
		t.Errorf("result %q with error %v, want none and an error", result.Body, err)
	}
}

func TestStandardErrorIsBounded(t *testing.T) {
	for _, test := range []struct {
		name, script string
		lines, total int // lines that are logged; bytes without newlines
		end          string
	}{
		{"many lines", "yes 1234567 | head -n 1000000 >&2; printf 'end' >&2; exit 1", 64 << 10 / 7, 7_000_003, ":\n" + strings.Repeat("1234567\n", 255) + "end"},
		{"one long line", "head -c 32000000 /dev/zero | tr '\\0' x >&2; exit 1", 1, 32_000_000, ": " + strings.Repeat("x", 2048)},
		{"long lines", "for i in 1 2 3; do head -c 5000 /dev/zero | tr '\\0' x >&2; echo >&2; done; echo end >&2; exit 1", 4, 15_003, ": end"},
	} {
		log := new(stderrLog)
		_, err := consumertest.RunLog(t.Context(), shell(t, test.script), consumer.Delivery{}, log.logger())
		if want := "exit status 1" + test.end; err == nil || err.Error() != want {
			t.Errorf("%s: error %.60v, want %.60q", test.name, err, want)
		}
		logged := 0
		for _, line := range log.lines {
			logged += len(line)
		}
		if len(log.lines) != test.lines || logged > 64<<10 {
			t.Errorf("%s: %d lines of %d bytes were logged, want %d lines of at most 64 KiB", test.name, len(log.lines), logged, test.lines)
		}
		if len(log.warnings) != 1 {
			t.Fatalf("%s: %d warnings, want one of what was not logged", test.name, len(log.warnings))
		}
		if dropped := attribute(log.warnings[0], "dropped_bytes").Int64(); int(dropped) != test.total-logged {
			t.Errorf("%s: %d bytes reported as dropped, want %d", test.name, dropped, test.total-logged)
		}
	}
}

func TestStandardErrorIsLogged(t *testing.T) {
	log := new(stderrLog)
	p := shell(t, `printf 'one\r\n\n  two\nthree\377' >&2`)
	if _, err := consumertest.RunLog(t.Context(), p, consumer.Delivery{}, log.logger()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"one", "two", "three\uFFFD"}; !slices.Equal(log.lines, want) || len(log.warnings) != 0 {
		t.Errorf("logged %q and %v, want %q and no warning", log.lines, log.warnings, want)
	}
}

// Eight at a time are what a queue works by default.
func TestEachRunsOnceAndLeavesNothing(t *testing.T) {
	const workers, runs = 8, 200
	journal := t.TempDir() + "/journal"
	p := shell(t, `echo "$WARREN_MESSAGE_ID" >> `+journal, `echo "$WARREN_MESSAGE_ID $(cat)"`)
	ask(t, p, consumer.Delivery{MessageID: "first", Body: []byte("x")}) // has the runtime open what it keeps
	files := openFiles(t)

	var work sync.WaitGroup
	for w := range workers {
		work.Go(func() {
			for r := range runs {
				id := fmt.Sprintf("%d-%d", w, r)
				d := consumer.Delivery{MessageID: id, ReplyTo: "answers", Body: []byte("body of " + id)}
				result, err := consumertest.Run(t.Context(), p, d)
				if want := id + " body of " + id + "\n"; err != nil || string(result.Body) != want {
					t.Errorf("message %s: result %q with error %v, want %q", id, result.Body, err, want)
				}
			}
		})
	}
	work.Wait()

	content, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	ids := strings.Fields(string(content))
	slices.Sort(ids)
	if unique := len(slices.Compact(slices.Clone(ids))); len(ids) != workers*runs+1 || unique != len(ids) {
		t.Errorf("%d runs of %d messages, want %d of each", len(ids), unique, workers*runs+1)
	}
	if got := openFiles(t); got != files {
		t.Errorf("%d files are open, want %d as before", got, files)
	}
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("wait4 returned %d, %v; want %v: no child is left, not even as a zombie", pid, err, syscall.ECHILD)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
