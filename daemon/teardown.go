package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A teardown is what has been opened and has to be closed, newest first.
type teardown struct{ steps []step }

type step struct {
	name  string
	close func() error
	// waits is true if closing may wait for the work of deliveries.
	waits bool
}

func (t *teardown) add(s step) { t.steps = append(t.steps, s) }

// start runs f beside, until it is closed: its context ends then, and it is waited for.
func (t *teardown) start(ctx context.Context, name string, f func(context.Context)) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f(ctx)
	}()
	t.add(step{name: name, close: func() error {
		stop()
		<-ended
		return nil
	}})
}

// close closes everything, whatever fails. If work has been abandoned, it leaves out what
// might wait for that.
func (t *teardown) close(abandoned bool) error {
	var errs []error
	for _, s := range slices.Backward(t.steps) {
		if s.waits && abandoned {
			continue
		}
		if err := s.close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", s.name, err))
		}
	}
	t.steps = nil
	return errors.Join(errs...)
}
