package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"syscall"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/daemon/internal/cli"
)

func TestExitStatus(t *testing.T) {
	for err, want := range map[error]int{
		nil:                   0,
		errors.New("a fault"): 1,
		fmt.Errorf("%w: 3", consumer.ErrAbandoned): 2,
		fmt.Errorf("pause: %w", new(cli.Partial)):  3,
	} {
		if got := exitStatus(err); got != want {
			t.Errorf("%v: got exit status %d, want %d", err, got, want)
		}
	}
}

// Both signals count, also if the second one is there before the first is noticed.
func TestSignals(t *testing.T) {
	signals := make(chan os.Signal, 2)
	signals <- syscall.SIGTERM
	signals <- syscall.SIGINT
	var did []string
	heed(signals, func() { did = append(did, "stop") }, func(s os.Signal) { did = append(did, "end by "+s.String()) })
	if want := []string{"stop", "end by interrupt"}; !slices.Equal(did, want) {
		t.Errorf("did %q, want %q", did, want)
	}
}

func TestNameOfTheBuild(t *testing.T) {
	for path, want := range map[string]string{
		"github.com/warrenmq/warren":          "warren",
		"github.com/warrenmq/warren.test":     "warren",
		"example.com/acme/v2":                 "acme",
		"example.com/acme/v2/cmd/acme-worker": "acme-worker",
		"command-line-arguments":              "daemon.test", // go run main.go: that of the file
	} {
		if got := nameOf(&debug.BuildInfo{Path: path}); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	if got := versionOf(&debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}); got != "v1.2.3" {
		t.Errorf("got the version %q, want that of the main module", got)
	}
	if got := versionOf(nil); got != "(devel)" {
		t.Errorf("got the version %q, want (devel)", got)
	}
}

// What was opened last is closed first, whatever fails, and what runs beside is waited for.
func TestTeardown(t *testing.T) {
	for _, abandoned := range []bool{false, true} {
		var down teardown
		var closed []string
		add := func(name string, waits bool, err error) {
			down.add(step{name: name, waits: waits, close: func() error { closed = append(closed, name); return err }})
		}
		fault := errors.New("disk full")
		add("telemetry", false, fault)
		add("processor", true, nil)
		down.start(t.Context(), "server", func(ctx context.Context) { <-ctx.Done(); closed = append(closed, "server") })
		add("states", false, fault)
		err := down.close(abandoned)
		if want := "close states: disk full\nclose telemetry: disk full"; err == nil || err.Error() != want || !errors.Is(err, fault) {
			t.Errorf("got %v, want %q", err, want)
		}
		want := []string{"states", "server", "processor", "telemetry"}
		if abandoned { // closing the processor might wait for the work
			want = []string{"states", "server", "telemetry"}
		}
		if !slices.Equal(closed, want) {
			t.Errorf("abandoned %t: closed %q, want %q", abandoned, closed, want)
		}
		if err := down.close(false); err != nil {
			t.Errorf("closed twice: %v", err)
		}
	}
}
