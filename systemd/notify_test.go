package systemd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A manager writes down what it is told, and when.
type manager struct {
	began time.Time
	told  []string // each as 1.5s READY=1
	fails error
}

func (m *manager) send(state string) error {
	for line := range strings.Lines(state) {
		m.told = append(m.told, time.Since(m.began).Truncate(100*time.Millisecond).String()+" "+strings.TrimSpace(line))
	}
	return m.fails
}

// of returns what was told that begins with one of these.
func (m *manager) of(prefixes ...string) string {
	var lines []string
	for _, line := range m.told {
		_, state, _ := strings.Cut(line, " ")
		for _, p := range prefixes {
			if strings.HasPrefix(state, p) {
				lines = append(lines, line)
			}
		}
	}
	return strings.Join(lines, "\n")
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
	}
}

// notify runs d for a while, of which it is stopping from stopAfter on; zero: not at all.
func notify(d Daemon, watchdog, stopAfter, end time.Duration, fails error) (*manager, string) {
	var log strings.Builder
	m := &manager{began: time.Now(), fails: fails}
	n := &notifier{Daemon: d, watchdog: watchdog, log: slog.New(slog.NewTextHandler(&log, nil)), send: m.send}
	ctx, cancel := context.WithTimeout(context.Background(), end)
	defer cancel()
	stopping := context.Background()
	if stopAfter > 0 {
		var stop context.CancelFunc
		stopping, stop = context.WithTimeout(stopping, stopAfter)
		defer stop()
	}
	n.run(ctx, stopping)
	return m, log.String()
}

func after(d time.Duration) func() bool {
	began := time.Now()
	return func() bool { return time.Since(began) >= d }
}

func healthy() error { return nil }

func TestAStartIsExtendedUntilTheDaemonIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := notify(Daemon{Ready: after(40 * time.Second), Status: func() string { return "connecting" }, Healthy: healthy}, 0, 0, time.Hour, nil)
		equal(t, "told", m.of(""), `0s EXTEND_TIMEOUT_USEC=60000000
0s STATUS=connecting
15s EXTEND_TIMEOUT_USEC=60000000
30s EXTEND_TIMEOUT_USEC=60000000
40s READY=1`)
	})
}

func TestAStopIsExtendedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := Daemon{Ready: after(0), Status: func() string { return "2 in flight" }, Healthy: healthy, StopTimeout: 10 * time.Minute}
		m, _ := notify(d, 30*time.Second, 90*time.Second, 5*time.Minute-500*time.Millisecond, nil)
		equal(t, "told", m.of("READY", "STOPPING", "EXTEND", "STATUS"), `0s READY=1
0s STATUS=2 in flight
1m30s STOPPING=1
1m30s EXTEND_TIMEOUT_USEC=605000000`)
		if last := m.told[len(m.told)-1]; last != "4m59s WATCHDOG=1" {
			t.Errorf("the last sign of life: got %s, want one until the end", last)
		}
	})
}

func TestTheStatusIsToldWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		d := Daemon{Ready: after(0), Healthy: healthy, Status: func() string {
			if time.Since(began) < 3*time.Second {
				return "1 in flight"
			}
			return "reconnecting:\n  refused\n"
		}}
		m, _ := notify(d, 0, 0, time.Minute, nil)
		equal(t, "told", m.of(""), "0s READY=1\n0s STATUS=1 in flight\n3s STATUS=reconnecting: refused")
	})
}

func TestTheWatchdogHearsNothingOfALoopThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		d := Daemon{Ready: after(0), Status: func() string { return "fine" }, Healthy: func() error {
			if s := time.Since(began); s > 2*time.Second && s < 30*time.Second {
				return errors.New("the loop is stuck")
			}
			return nil
		}}
		m, log := notify(d, 3*time.Second, 0, 32500*time.Millisecond, nil)
		equal(t, "told", m.of("WATCHDOG", "STATUS"), `0s WATCHDOG=1
0s STATUS=fine
1s WATCHDOG=1
2s WATCHDOG=1
3s STATUS=the loop is stuck
30s WATCHDOG=1
30s STATUS=fine
31s WATCHDOG=1
32s WATCHDOG=1`)
		if strings.Count(log, "level=ERROR") != 1 || !strings.Contains(log, "the loop is stuck") {
			t.Errorf("log: got %q, want the fault once", log)
		}
	})
}

// A watchdog that is impatient is fed more often than every second.
func TestASignOfLifeComesThreeTimesInTheWatchdogsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := notify(Daemon{Ready: after(0), Status: func() string { return "" }, Healthy: healthy}, 600*time.Millisecond, 0, 500*time.Millisecond, nil)
		equal(t, "told", m.of("WATCHDOG"), "0s WATCHDOG=1\n200ms WATCHDOG=1\n400ms WATCHDOG=1")
	})
}

func TestAManagerThatDoesNotListenIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, log := notify(Daemon{Ready: after(0), Status: func() string { return "" }, Healthy: healthy}, time.Second, 0, time.Minute, errors.New("no such socket"))
		if strings.Count(log, "\n") != 1 || !strings.Contains(log, "no such socket") {
			t.Errorf("log: got %q, want the fault once", log)
		}
	})
}

func TestWithoutAManagerRunReturns(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	Daemon{Ready: after(0), Status: func() string { return "" }, Healthy: healthy}.Run(t.Context(), t.Context(), slog.New(slog.DiscardHandler))
}

func TestRunSpeaksToTheSocketOfTheManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Daemon{Ready: after(0), Status: func() string { return "fine" }, Healthy: healthy}.Run(ctx, t.Context(), slog.New(slog.DiscardHandler))
	}()
	var told []string
	for range 2 {
		buffer := make([]byte, 1000)
		n, err := socket.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, string(buffer[:n]))
	}
	cancel()
	<-ended
	Failed(errors.New("the configuration has 2 faults:\n  one\n  two"))
	buffer := make([]byte, 1000)
	n, err := socket.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "told", strings.Join(append(told, string(buffer[:n])), "|"), "STATUS=fine|READY=1\nSTATUS=fine|STATUS=the configuration has 2 faults: one two")
}
