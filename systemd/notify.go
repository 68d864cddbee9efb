// Package systemd tells systemd how the daemon is: that it has started, that it is alive,
// that it is stopping, and in words what it is doing. Beside the package stand the units,
// and what the packages for Debian and others are made from.
package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const (
	// beforeReady is how often the daemon is looked at while it starts: systemctl start
	// waits for it. Afterwards it is every second, or more often if the watchdog asks for
	// that.
	beforeReady = 100 * time.Millisecond
	afterReady  = time.Second
	// startExtension is what systemd is asked to wait for a start that goes on, again and
	// again: a broker that is away is no failure of the daemon.
	startExtension = time.Minute
	// stopMargin is what a stop may take beyond the time that the daemon has set itself,
	// before systemd kills it.
	stopMargin = 5 * time.Second
)

// A Daemon is what systemd is told of. Its functions must not block.
type Daemon struct {
	// Ready tells whether the start is over. When it has been, it is not asked again.
	Ready func() bool
	// Status is what the daemon is doing, in a line.
	Status func() string
	// Healthy returns why the daemon makes no progress, or nil. For as long as it returns
	// an error the watchdog hears nothing, and systemd starts the daemon anew.
	Healthy func() error
	// StopTimeout is the longest that the daemon may take to stop.
	StopTimeout time.Duration
}

// Run tells systemd of d until ctx ends; from when stopping ends, that it is stopping. It
// blocks until then. Where the service manager does not ask to be told, it returns at
// once. If it cannot tell, it logs that once, and goes on trying.
func (d Daemon) Run(ctx, stopping context.Context, log *slog.Logger) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog of systemd will not be heard", "error", err)
	}
	asked, err := daemon.SdNotify(false, "STATUS="+oneLine(d.Status()))
	if !asked && err == nil {
		return
	}
	n := &notifier{Daemon: d, watchdog: watchdog, log: log, send: func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	}}
	n.run(ctx, stopping)
}

// Reloading tells systemd that the daemon reloads while f runs, which it must not do before
// the start is over.
func Reloading(f func()) {
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec()) // whoever cannot be told does not wait for it
	f()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
}

// Failed tells systemd, for systemctl status, why the daemon ends.
func Failed(err error) {
	_, _ = daemon.SdNotify(false, "STATUS="+oneLine(err.Error())) // it is on standard error, too
}

// A notifier is one run of a Daemon. Only its own goroutine uses it.
type notifier struct {
	Daemon
	watchdog time.Duration // within which a sign of life is due; zero: none is
	log      *slog.Logger
	send     func(state string) error

	ready, stopping bool
	status          string    // the last that was told
	alive, extended time.Time // when these were told last
	stuck, unheard  bool      // and logged
}

func (n *notifier) run(ctx, stopping context.Context) {
	stop := stopping.Done()
	for {
		n.tell(time.Now(), stopping.Err() != nil)
		next := afterReady
		if !n.ready {
			next = beforeReady
		}
		if n.watchdog > 0 {
			next = min(next, n.watchdog/3)
		}
		select {
		case <-time.After(next):
		case <-stop:
			stop = nil
		case <-ctx.Done():
			return
		}
	}
}

// tell sends what there is to tell now, in one message.
func (n *notifier) tell(now time.Time, stopping bool) {
	var state []string
	status := n.Status()
	switch {
	case stopping && !n.stopping:
		n.stopping = true
		state = append(state, "STOPPING=1", extend(n.StopTimeout+stopMargin))
	case stopping || n.ready:
	case n.Ready():
		n.ready = true
		state = append(state, "READY=1")
	case now.Sub(n.extended) >= startExtension/4:
		n.extended = now
		state = append(state, extend(startExtension))
	}
	if err := n.Healthy(); err != nil {
		status = err.Error()
		if !n.stuck {
			n.log.Error("systemd's watchdog is left without a sign of life", "error", err)
		}
		n.stuck = true
	} else if n.stuck = false; n.watchdog > 0 && now.Sub(n.alive) >= min(n.watchdog/3, afterReady) {
		n.alive = now
		state = append(state, daemon.SdNotifyWatchdog)
	}
	if status = oneLine(status); status != n.status {
		n.status = status
		state = append(state, "STATUS="+status)
	}
	if len(state) == 0 {
		return
	}
	err := n.send(strings.Join(state, "\n"))
	if err != nil && !n.unheard {
		n.log.Error("cannot tell systemd how the daemon is", "error", err)
	}
	n.unheard = err != nil
}

func extend(d time.Duration) string { return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()) }

// oneLine is text as systemd takes it: a newline would begin another assignment.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
