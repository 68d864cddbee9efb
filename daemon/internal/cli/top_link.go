package cli

import (
	"context"
	"sync"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
)

// A topLink is the connection of top, which is made anew when it is lost. Any number of
// goroutines may use it; nil is none.
type topLink struct {
	dial func(context.Context) (*fleet.Client, error)

	mu     sync.Mutex
	client *fleet.Client // nil: it is lost
	fault  error         // why it is
}

// dialAgainAfter is how long top waits before it connects anew.
const dialAgainAfter = time.Second

// current is the connection; nil, and why, if there is none.
func (l *topLink) current() (*fleet.Client, error) {
	if l == nil {
		return nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client, l.fault
}

func (l *topLink) set(c *fleet.Client, fault error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.client, l.fault = c, fault
}

// watch has the status of the daemons come until ctx ends, over one connection after the
// other. What the broker refuses of the first ends it.
func (l *topLink) watch(ctx context.Context, r fleet.Request, each func(fleet.Answer)) error {
	for first := true; ; first = false {
		c, _ := l.current()
		err := c.Watch(ctx, r, each)
		lost := c.IsLost()
		l.set(nil, err)
		c.Close()
		if ctx.Err() != nil || first && !lost {
			return err
		}
		for c = nil; c == nil; {
			select {
			case <-time.After(dialAgainAfter):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if c, err = l.dial(ctx); err != nil {
				l.set(nil, err)
			}
		}
		l.set(c, nil)
	}
}
