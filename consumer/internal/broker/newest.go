package broker

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Newest holds the session that there is now, for whoever has something to publish.
type Newest struct {
	mu      sync.Mutex
	session *Session      // nil: none
	changed chan struct{} // closed with the next change
	stopped time.Time     // since when there will be no other; zero: there may be
}

// NewNewest makes a Newest that has none.
func NewNewest() *Newest { return &Newest{changed: make(chan struct{})} }

// Set says which session there is now; nil is none.
func (n *Newest) Set(s *Session) { n.change(func() { n.session = s }) }

// Stop says that there will be no other session than the one there is.
func (n *Newest) Stop() {
	n.change(func() {
		if n.stopped.IsZero() {
			n.stopped = time.Now()
		}
	})
}

func (n *Newest) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// Get returns the session that there is now; nil if there is none.
func (n *Newest) Get() *Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.session
}

// Node is the URL of the node of the session that there is now; empty if there is none.
func (n *Newest) Node() string {
	if s := n.Get(); s != nil {
		return s.Consume.URL
	}
	return ""
}

// StoppedFor is how long the daemon has been stopping.
func (n *Newest) StoppedFor() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped.IsZero() {
		return 0
	}
	return time.Since(n.stopped)
}

// ErrNoSession is why nothing can be published by a daemon that is stopping.
var ErrNoSession = errors.New("the connection to the broker is lost, and the daemon is stopping")

// Wait blocks until there is a session that is not lost, ctx ends, or there will be none.
func (n *Newest) Wait(ctx context.Context) (*Session, error) {
	for {
		n.mu.Lock()
		s, stopped, changed := n.session, n.stopped, n.changed
		n.mu.Unlock()
		if s != nil && !s.IsLost() {
			return s, nil
		}
		if !stopped.IsZero() {
			return nil, ErrNoSession
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Impatient calls giveUp after d, unless ctx has ended: but not while the broker takes no
// messages at all, when a second copy would only follow the first.
func (n *Newest) Impatient(ctx context.Context, d time.Duration, giveUp func()) {
	time.AfterFunc(d, func() {
		switch s := n.Get(); {
		case ctx.Err() != nil:
		case s != nil && s.Publish.Blocked():
			n.Impatient(ctx, d, giveUp)
		default:
			giveUp()
		}
	})
}
