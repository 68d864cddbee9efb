// Package halt says whether a queue is to be left alone: for all daemons have paused it,
// or because this one takes no messages at all.
package halt

import (
	"cmp"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A Pause is that of a queue by the whole fleet, or of all queues by one daemon.
type Pause struct {
	// By is the user, as the broker knows it, and where that has asked from.
	By  string `json:"by,omitempty"`
	Why string `json:"why,omitempty"`
	// Since and Until are by the clock of whoever has asked. Zero means that it does not
	// end by itself.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
}

// Text is for how long, by whom and why, at now: for 5m0s by alice (vm1): mail server moves.
func (p *Pause) Text(now time.Time) string {
	var out string
	if !p.Since.IsZero() {
		out = fmt.Sprintf("for %v ", max(0, now.Sub(p.Since)).Round(time.Second))
	}
	out += "by " + cmp.Or(p.By, "somebody")
	if !p.Until.IsZero() {
		out += " until " + p.Until.UTC().Format(time.RFC3339)
	}
	if p.Why != "" {
		out += ": " + p.Why
	}
	return out
}

// A Halt is that of one queue. It may be used by any number of goroutines.
type Halt struct {
	changes chan struct{}

	mu            sync.Mutex
	paused, quiet atomic.Pointer[Pause] // written under mu
}

// New makes the Halt of a queue that is worked.
func New() *Halt { return &Halt{changes: make(chan struct{}, 1)} }

// Pause says that the queue is paused, or that it is not: nil.
func (h *Halt) Pause(p *Pause) { h.set(&h.paused, p) }

// Quiet says that the daemon takes no messages, or that it does: nil.
func (h *Halt) Quiet(p *Pause) { h.set(&h.quiet, p) }

func (h *Halt) set(to *atomic.Pointer[Pause], p *Pause) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.On()
	to.Store(p)
	if h.On() == before {
		return
	}
	select {
	case h.changes <- struct{}{}:
	default: // it has not been heeded yet
	}
}

// On tells whether the queue is to be left alone.
func (h *Halt) On() bool { return h.paused.Load() != nil || h.quiet.Load() != nil }

// Changes gets something after On has changed.
func (h *Halt) Changes() <-chan struct{} { return h.changes }

// Paused is the pause of the queue by the whole fleet; nil: there is none.
func (h *Halt) Paused() *Pause { return h.paused.Load() }

// Quieted says who has this daemon take no messages; nil: it does.
func (h *Halt) Quieted() *Pause { return h.quiet.Load() }
