// Package outage logs a fault that goes on when it begins and when it ends, however
// often it is met in between.
package outage

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// defaultTexts bounds what one outage logs: errors may name ports and addresses, and
// then hardly two are alike.
const defaultTexts = 10

// An Outage is a fault that goes on: it is logged when it begins, when it is met with
// an error that it has not been logged with, and when it ends. The zero value is none.
// It may be used by any number of goroutines.
type Outage struct {
	// Texts is how many different errors of one outage are logged. Zero means 10.
	Texts int
	// Least is how old an outage has to be for End to end it: where many connections
	// go to one server, some still succeed when it goes away. Zero means any age.
	Least time.Duration

	since atomic.Int64 // Unix nanoseconds; zero: there is none. Written under mu

	mu       sync.Mutex
	text     string          // of the last error
	logged   map[string]bool // of this outage
	failures int
}

// Begin counts err. It logs msg with it at level, unless it has already.
func (o *Outage) Begin(log *slog.Logger, level slog.Level, msg string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.Load() == 0 {
		o.since.Store(time.Now().UnixNano())
		o.failures, o.logged = 0, make(map[string]bool)
	}
	o.failures++
	o.text = strings.ReplaceAll(err.Error(), "\n", "; ") // of joined errors
	most := o.Texts
	if most == 0 {
		most = defaultTexts
	}
	if o.logged[o.text] || len(o.logged) >= most {
		return
	}
	o.logged[o.text] = true
	log.Log(context.Background(), level, msg, "error", o.text) //nolint:sloglint // a constant of the caller
}

// End logs msg, how many failures there were and how long the outage went on, if there
// is one. While there is none, it costs next to nothing.
func (o *Outage) End(log *slog.Logger, msg string) {
	if o.since.Load() == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	since := o.since.Load()
	if since == 0 { // another goroutine was first
		return
	}
	lasted := time.Since(time.Unix(0, since))
	if lasted < o.Least {
		return
	}
	o.since.Store(0)
	log.Info(msg, "failures", o.failures, "duration", lasted.Round(time.Millisecond)) //nolint:sloglint // a constant of the caller
}

// Since is when the outage that there is now began. Zero means that there is none.
func (o *Outage) Since() time.Time {
	if since := o.since.Load(); since != 0 {
		return time.Unix(0, since)
	}
	return time.Time{}
}

// Reason is the last error of the outage that there is now. Empty means that there is
// none.
func (o *Outage) Reason() string {
	if o.since.Load() == 0 {
		return ""
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.Load() == 0 {
		return ""
	}
	return o.text
}
