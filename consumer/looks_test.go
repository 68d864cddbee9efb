package consumer

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// looker opens a session over a proxy, which counts connections.
func looker(t *testing.T, v *rabbittest.Vhost) (*broker.Session, *rabbittest.Proxy) {
	t.Helper()
	p := rabbittest.NewProxy(t, v.Node.Addr())
	s, err := broker.Dialer{}.OpenSession(t.Context(), v.URLAt(p.Addr), slog.New(slog.DiscardHandler))
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
	v.PublishN(t, queues[7], 3, numbered)
	s, p := looker(t, v)
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
	equal(t, p.Accepted(), 3)

	// What fails takes the connection with it, since it may go on there, but not before the
	// last look over it has ended.
	v.DeleteQueue(t, queues[0])
	if _, err := s.Ready(t.Context(), queues[0]); err == nil {
		t.Error("a queue that is gone was looked at without an error")
	}
	for i := range queues[1:] {
		look(i + 1)
	}
	equal(t, p.Accepted(), 4)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { c, _ := v.Connections(t); return c == 3 }, "the connection before is closed")

	s.Close()
	if _, err := s.Ready(t.Context(), queues[1]); err == nil {
		t.Error("a session that is closed looked at a queue")
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { c, _ := v.Connections(t); return c == 0 }, "all are closed")
}

// TestASlowLookHoldsUpNoOther looks at a queue whose leader answers nobody.
func TestASlowLookHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	queues := []string{"slow", "quick"}
	declareAll(t, v, queues...)
	s, p := looker(t, v)
	for _, q := range slices.Concat(queues, queues) {
		if _, err := s.Ready(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	resume := v.SuspendLeader(t, "slow")
	slow := make(chan error, 1)
	go func() {
		_, err := s.Ready(t.Context(), "slow")
		slow <- err
	}()
	rabbittest.Eventually(t, rabbittest.Soon, func() bool {
		for range 50 {
			if _, err := s.Ready(t.Context(), "quick"); err != nil {
				t.Fatal(err)
			}
		}
		_, channels := v.Connections(t)
		return channels == 2
	}, "each look has a channel")
	select {
	case err := <-slow:
		t.Errorf("the look at the queue whose leader is suspended ended with %v before others had been looked at", err)
	default:
	}
	equal(t, p.Accepted(), 3)
	resume()
	<-slow
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { _, channels := v.Connections(t); return channels == 1 }, "one channel stays")
}
