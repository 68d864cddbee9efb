package command_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/command"
	"github.com/warrenmq/warren/processors/registry"
)

func TestExitDecides(t *testing.T) {
	for _, test := range []struct{ script, verdict, text string }{
		{"exit 0", "ack", ""},
		{"echo no such order >&2; exit 65", "dead", "exit status 65: no such order"},
		{"echo try later >&2; exit 75", "retry", "exit status 75: try later"},
		{"echo no database >&2; exit 69", "unavailable", "exit status 69: no database"},
		{"exit 1", "retry", "exit status 1"},
		{"exit 255", "retry", "exit status 255"},
		{"echo first >&2; echo last >&2; echo >&2; exit 3", "retry", "exit status 3:\nfirst\nlast"},
		{"echo first >&2; echo warren:progress 40 >&2; printf '  last\\r\\n' >&2; exit 3", "retry", "exit status 3:\nfirst\n  last"},
		{"echo warren:progress 40 now >&2; exit 3", "retry", "exit status 3"},
		{"printf 'no newline' >&2; exit 3", "retry", "exit status 3: no newline"},
		{`printf '\377bad\n' >&2; exit 3`, "retry", "exit status 3: \uFFFDbad"},
		{"kill -SEGV $$", "retry", "signal: segmentation fault"},
		{"kill -KILL $$", "retry", "signal: killed"},
	} {
		_, err := consumertest.Run(t.Context(), shell(t, "ulimit -c 0", test.script), consumer.Delivery{})
		if got := consumertest.Verdict(err); got != test.verdict {
			t.Errorf("%s: verdict %s, want %s", test.script, got, test.verdict)
		}
		var text string
		if err != nil {
			text = err.Error()
		}
		if text != test.text {
			t.Errorf("%s: error %q, want %q", test.script, text, test.text)
		}
	}
}

func TestPythonTracebackIsTheError(t *testing.T) {
	_, err := consumertest.Run(t.Context(), python(t, "import json, sys", "json.load(sys.stdin)['order']"), consumer.Delivery{Body: []byte(`{}`)})
	if err == nil || !strings.HasPrefix(err.Error(), "exit status 1:\nTraceback (most recent call last):\n  File ") || !strings.HasSuffix(err.Error(), "\nKeyError: 'order'") {
		t.Errorf("error %v, want the traceback", err)
	}
}

// A program can go, or be spoiled, while the daemon runs.
func TestCannotStart(t *testing.T) {
	interpreter := filepath.Join(t.TempDir(), "interpreter")
	good := func(path string) error { // a new file, as mv makes it
		return errors.Join(os.WriteFile(path+".new", []byte("#!/bin/sh\n"), 0o755), os.Rename(path+".new", path))
	}
	for _, test := range []struct {
		name    string
		first   string
		spoil   func(path string) error
		verdict string
		remedy  string
		cure    func(path string) error
	}{
		{"program gone", "#!/bin/sh", os.Remove, "unavailable", "put back the program", good},
		{"interpreter gone", "#!" + interpreter, nil, "unavailable", "put back the program, or the interpreter", func(string) error { return os.Symlink("/bin/sh", interpreter) }},
		{"not executable", "#!/bin/sh", func(path string) error { return os.Chmod(path, 0o600) }, "unavailable", "make the program executable", func(path string) error { return os.Chmod(path, 0o755) }},
		{"no first line", "exit 0", nil, "unavailable", "#!/bin/sh", good},
	} {
		path := writeScript(t, test.first)
		p := newProcessor(t, command.Config{Command: path})
		if test.spoil != nil {
			if err := test.spoil(path); err != nil {
				t.Fatal(err)
			}
		}
		_, err := consumertest.Run(t.Context(), p, consumer.Delivery{})
		if got := consumertest.Verdict(err); got != test.verdict {
			t.Errorf("%s: verdict %s, want %s", test.name, got, test.verdict)
		}
		for _, want := range []string{path, test.remedy} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want it to say %q", test.name, err, want)
			}
		}
		if err := test.cure(path); err != nil {
			t.Fatal(err)
		}
		if _, err := consumertest.Run(t.Context(), p, consumer.Delivery{}); err != nil {
			t.Errorf("%s, with the remedy followed: %v", test.name, err)
		}
	}
}

func TestHeadersTooLongForAVariableAreDead(t *testing.T) {
	const most = 128<<10 - 1 - len(`WARREN_HEADERS={"h":""}`)
	for _, test := range []struct {
		header  string
		verdict string
	}{
		{strings.Repeat("x", most), "ack"},
		{strings.Repeat("x", most+1), "dead"},
		{strings.Repeat("\x00", 100_000), "dead"}, // six bytes each, as JSON
	} {
		_, err := consumertest.Run(t.Context(), shell(t, "exit 0"), consumer.Delivery{Headers: map[string]any{"h": test.header}})
		if got := consumertest.Verdict(err); got != test.verdict || err != nil && !strings.Contains(err.Error(), "WARREN_HEADERS would have") {
			t.Errorf("a header of %d bytes: verdict %s with error %v, want %s and the remedy", len(test.header), got, err, test.verdict)
		}
	}
}

func TestEndedContextStartsNothing(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Nanosecond, consumer.ErrTimeout)
	defer cancel()
	<-ctx.Done()
	_, err := consumertest.Run(ctx, shell(t, "touch "+started), consumer.Delivery{})
	if !errors.Is(err, consumer.ErrTimeout) {
		t.Errorf("error %v, want %v", err, consumer.ErrTimeout)
	}
	if _, err := os.Stat(started); !os.IsNotExist(err) {
		t.Errorf("the command was started all the same (stat: %v)", err)
	}
}

func TestUser(t *testing.T) {
	cfg := command.Config{Command: "sh -c 'id -u; id -g; id -G'", Mode: "spawn", User: "nobody"}
	p, err := cfg.Open(registry.Queue{Name: "commands", Concurrency: 1}, nil)
	if os.Geteuid() != 0 {
		if err == nil || !strings.Contains(err.Error(), "run the daemon as root") {
			t.Errorf("New as an ordinary user: %v, want a refusal with the remedy", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	groups, err := nobody.GroupIds()
	if err != nil {
		t.Fatal(err)
	}
	want := nobody.Uid + "\n" + nobody.Gid + "\n" + strings.Join(groups, " ") + "\n"
	if got := ask(t, p, consumer.Delivery{}); got != want {
		t.Errorf("user, group and groups of the command are %q, want %q", got, want)
	}
}

// TestLimitsAreRaised has the kernel refuse a program for a limit of the unit, and does what
// the error says.
func TestLimitsAreRaised(t *testing.T) {
	limits := map[string]int{"LimitNOFILE": unix.RLIMIT_NOFILE}
	cfg := command.Config{Command: "true"}
	if os.Geteuid() == 0 { // who else may have no more threads, either, which ends the test
		limits["LimitNPROC"] = unix.RLIMIT_NPROC
		cfg.User = "nobody"
		occupy(t, cfg.User)
	}
	for name, limit := range limits {
		t.Run(name, func(t *testing.T) {
			p := newProcessor(t, cfg)
			var before unix.Rlimit
			if err := unix.Getrlimit(limit, &before); err != nil {
				t.Fatal(err)
			}
			raise := sync.OnceFunc(func() {
				if err := unix.Setrlimit(limit, &before); err != nil {
					t.Error(err)
				}
			})
			defer raise()
			if err := unix.Setrlimit(limit, &unix.Rlimit{Cur: 0, Max: before.Max}); err != nil {
				t.Fatal(err)
			}
			_, err := consumertest.Run(t.Context(), p, consumer.Delivery{})
			if consumertest.Verdict(err) != "unavailable" || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v, want one that is no fault of the message and names %s", err, name)
			}
			raise()
			if _, err := consumertest.Run(t.Context(), p, consumer.Delivery{}); err != nil {
				t.Errorf("with the limit raised: %v", err)
			}
		})
	}
}

// occupy runs a process of the user until the test ends: the limit is not looked at for the first.
func occupy(t *testing.T, name string) {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	id, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(id), NoSetGroups: true}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
