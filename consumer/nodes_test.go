package consumer

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A node that still accepts connections, and of which nothing comes any more, is left for
// one that works, long before its heartbeats have failed.
func TestANodeThatDoesNotWorkIsLeft(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	home, other := rabbittest.NewProxy(t, v.Node.Addr()), rabbittest.NewProxy(t, v.Node.Addr())
	l := newLedger()
	r := runConfig(t, Config{Nodes: []string{v.URLAt(home.Addr), v.URLAt(other.Addr)}, Queues: []Queue{{Name: "orders", Processor: l.done()}}}, nil)
	if node := r.Status().Connection.Node; node != home.Addr {
		t.Fatalf("connected to %s, want the first, %s", node, home.Addr)
	}
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "warren.alive") == 1 }, "the node has shown that it works")

	home.Stall(rabbittest.FromNode)
	rabbittest.Eventually(t, 15*time.Second, func() bool {
		s := r.Status()
		return s.Connection.Node == other.Addr && s.Connection.LostAt.IsZero() && s.Queues[0].Reason == ""
	}, "the queue is consumed by way of the other node")
	if log := r.log.String(); !strings.Contains(log, "the node does not work, looking for one that does") || !strings.Contains(log, "node "+other.Addr+" works") {
		t.Error("the log does not say why the node was left")
	}
}

// While no node works, the daemon stays where it is, and does not connect to them over and
// over.
func TestNoNodeWorks(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	home, other := rabbittest.NewProxy(t, v.Node.Addr()), rabbittest.NewProxy(t, v.Node.Addr())
	l := newLedger()
	r := runConfig(t, Config{Nodes: []string{v.URLAt(home.Addr), v.URLAt(other.Addr)}, Queues: []Queue{{Name: "orders", Processor: l.done()}}}, nil)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "warren.alive") == 1 }, "the node has shown that it works")

	restore := v.LoseLeader(t, "warren.alive")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.Status().Queues[0].Reason != "" }, "the queue counts as not consumed")
	before, began := other.Accepted(), time.Now()
	rabbittest.Eventually(t, 30*time.Second, func() bool { return other.Accepted() >= before+2 }, "the other node is looked at again")
	if most := 3 + int(time.Since(began)/(2*time.Second)); other.Accepted() > most+before {
		t.Errorf("%d connections to the other node in %v, want %d at most", other.Accepted()-before, time.Since(began), most)
	}
	restore()
	rabbittest.Eventually(t, 30*time.Second, func() bool { return r.Status().Queues[0].Reason == "" }, "the queue counts as consumed again")
	if node := r.Status().Connection.Node; node != home.Addr && node != other.Addr {
		t.Errorf("connected to %s", node)
	}
}

// After its home was away, the daemon goes back there when nothing is being worked, and no
// work is done twice for it.
func TestTheDaemonGoesBackToItsHome(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	home, other := rabbittest.NewProxy(t, v.Node.Addr()), rabbittest.NewProxy(t, v.Node.Addr())
	home.Refuse()
	l := newLedger()
	work := l.done()
	r := runConfig(t, Config{Nodes: []string{v.URLAt(home.Addr), v.URLAt(other.Addr)}, Queues: []Queue{{
		Name: "orders", Concurrency: 2,
		Processor: ProcessorFunc(func(ctx context.Context, d Delivery, s *Scope) error {
			<-time.After(5 * time.Millisecond) // as long as work takes
			return work.Process(ctx, d, s)
		}),
	}}}, func(c *Consumer) { c.nodes.HomeAfter = time.Second })
	if node := r.Status().Connection.Node; node != other.Addr {
		t.Fatalf("connected to %s, want %s", node, other.Addr)
	}
	home.Restore(t)
	const n = 1000
	v.PublishN(t, "orders", n, func(i int) amqp.Publishing { return amqp.Publishing{MessageId: strconv.Itoa(i)} })
	rabbittest.Eventually(t, 30*time.Second, func() bool {
		s := r.Status().Connection
		return s.Node == home.Addr && s.LostAt.IsZero()
	}, "the daemon is connected to its home")
	rabbittest.Eventually(t, 60*time.Second, func() bool { return r.Status().Queues[0].Done >= n }, "all messages are worked")
	if done := r.Status().Queues[0].Done; done != n {
		t.Errorf("%d attempts for %d messages", done, n)
	}
}
