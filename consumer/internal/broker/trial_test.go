package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// looker opens a session over a proxy, which counts connections.
func looker(t *testing.T, v *rabbittest.Vhost) (*Session, *rabbittest.Proxy) {
	t.Helper()
	p := rabbittest.NewProxy(t, v.Node.Addr())
	s, err := Dialer{}.OpenSession(t.Context(), v.URLAt(p.Addr), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, p
}

// TestLooksShareAChannel looks at many queues, by turns and at once: there is one
// connection for that and, when it is done, one channel.
func TestLooksShareAChannel(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	queues := make([]string, 20)
	for i := range queues {
		queues[i] = fmt.Sprint("jobs-", i)
		v.Declare(t, queues[i], nil)
	}
	v.PublishN(t, queues[7], 3, func(int) amqp.Publishing { return amqp.Publishing{} })
	s, p := looker(t, v)
	accepted := func(want int) {
		t.Helper()
		if got := p.Accepted(); got != want {
			t.Errorf("%d connections were opened, want %d", got, want)
		}
	}
	look := func(i int) {
		want := 0
		if i == 7 {
			want = 3
		}
		if n, err := s.Ready(t.Context(), queues[i]); err != nil || n != want {
			t.Errorf("queue %s has %d messages (%v), want %d", queues[i], n, err, want)
		}
	}
	for range 5 {
		for i := range queues {
			look(i)
		}
	}
	var looking sync.WaitGroup
	for i := range queues {
		looking.Go(func() { look(i) })
	}
	looking.Wait()
	rabbittest.Eventually(t, rabbittest.Soon, func() bool {
		connections, channels := v.Connections(t)
		return connections == 3 && channels == 1 // of what consumes, what publishes and what looks
	}, "one connection looks, over one channel")
	accepted(3)

	// What fails takes the connection with it, since it may go on there, but not before the
	// last look over it has ended.
	v.DeleteQueue(t, queues[0])
	if _, err := s.Ready(t.Context(), queues[0]); err == nil {
		t.Error("a queue that is gone was looked at without an error")
	}
	for i := range queues[1:] {
		look(i + 1)
	}
	accepted(4)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { c, _ := v.Connections(t); return c == 3 }, "the connection before is closed")

	s.Close()
	if _, err := s.Ready(t.Context(), queues[1]); err == nil {
		t.Error("a session that is closed looked at a queue")
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { c, _ := v.Connections(t); return c == 0 }, "all are closed")
}

// TestASlowLookHoldsUpNoOther has a look that does not end keep the channel of all.
func TestASlowLookHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "quick", nil)
	s, _ := looker(t, v)
	look := func() {
		t.Helper()
		if _, err := s.Ready(t.Context(), "quick"); err != nil {
			t.Error(err)
		}
	}
	look()
	looking := s.Trial.conn.looking
	held := <-looking
	for range 3 {
		look() // or the test does not end
	}
	looking <- held
	look()
	rabbittest.Eventually(t, rabbittest.Soon, func() bool {
		connections, channels := v.Connections(t)
		return connections == 3 && channels == 1
	}, "the channels that were opened meanwhile are closed")
}

// TestWhoWaitsForADialFailsWithIt has many look at once, at a node that does not answer: one
// of them finds out, and those who cannot wait for that do not.
func TestWhoWaitsForADialFailsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down, inAHurry := errors.New("the node does not answer"), errors.New("in a hurry")
		dials := 0
		trial := newTrial(Dialer{}, "")
		trial.connect = func(ctx context.Context) (*Conn, error) {
			dials++
			if !Sleep(ctx, connectTimeout) {
				return nil, context.Cause(ctx)
			}
			return nil, down
		}
		var looking sync.WaitGroup
		look := func(patience, want time.Duration, wantErr error) {
			looking.Go(func() {
				ctx, cancel := context.WithTimeoutCause(t.Context(), patience, inAHurry)
				defer cancel()
				start := time.Now()
				err := trial.Do(ctx, func(*Conn) error { return nil })
				if took := time.Since(start); took != want || !errors.Is(err, wantErr) {
					t.Errorf("got %v after %v, want %v after %v", err, took, wantErr, want)
				}
			})
			synctest.Wait()
		}
		dialed := func(want int) {
			t.Helper()
			looking.Wait()
			if dials != want {
				t.Errorf("the node was dialed %d times, want %d", dials, want)
			}
		}
		for range 10 {
			look(time.Minute, connectTimeout, down)
		}
		look(time.Second, time.Second, inAHurry)
		dialed(1)
		look(time.Minute, connectTimeout, down)
		dialed(2) // it may have come back
		// What ends with who dials is no answer for others.
		look(time.Second, time.Second, inAHurry)
		look(time.Minute, time.Second+connectTimeout, down)
		dialed(4)
	})
}
