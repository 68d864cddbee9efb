package rabbittest

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Vhost is a virtual host of one test on the node of its package. Its methods
// fail the test if the broker refuses; they connect anew each time, so that no
// fault of an earlier moment reaches them.
type Vhost struct {
	// Node is shared with the other tests of the package.
	Node *Node
	// Name is what the broker calls it.
	Name string
	// URL is for the user guest, who may do everything.
	URL string
}

var vhosts atomic.Int64

// NewVhost makes an empty vhost, and starts the node if it is the first of the
// package. When the test ends, the node is mended, if the test has stopped it or
// raised an alarm, and the vhost deleted.
func NewVhost(t testing.TB) *Vhost {
	t.Helper()
	node, err := shared.get()
	if err != nil {
		t.Fatalf("no node to test against: %v", err)
	}
	name := fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), vhosts.Add(1))
	if err := node.addVhost(name); err != nil {
		t.Fatalf("make a vhost: %v", err)
	}
	t.Cleanup(func() {
		if err := node.mend(context.Background()); err != nil {
			t.Errorf("mend the node after the test: %v", err)
			return
		}
		if err := node.deleteVhost(name); err != nil {
			t.Errorf("delete the vhost of the test: %v", err)
		}
	})
	return &Vhost{Node: node, Name: name, URL: node.URL(name)}
}

// URLAt is URL with another address, such as that of a [Proxy].
func (v *Vhost) URLAt(addr string) string { return amqpURL("amqp", "guest", "guest", addr, v.Name) }

// Channel opens a connection and a channel on it, both of which the end of the test
// closes.
func (v *Vhost) Channel(t testing.TB) *amqp.Channel {
	t.Helper()
	ch, hangUp := v.open(t)
	t.Cleanup(hangUp)
	return ch
}

// open opens a channel that the caller ends.
func (v *Vhost) open(t testing.TB) (ch *amqp.Channel, hangUp func()) {
	t.Helper()
	conn, err := amqp.DialConfig(v.URL, amqp.Config{Properties: amqp.Table{"connection_name": "rabbittest"}})
	if err != nil {
		t.Fatalf("connect to the node: %v", err)
	}
	// The node may be gone, or frozen: the close of a connection is not the test's matter.
	hangUp = func() { _ = conn.CloseDeadline(time.Now().Add(5 * time.Second)) }
	if ch, err = conn.Channel(); err != nil {
		hangUp()
		t.Fatalf("open a channel: %v", err)
	}
	return ch, hangUp
}

// Declare declares a durable queue with the arguments, a quorum queue unless they
// name another x-queue-type.
func (v *Vhost) Declare(t testing.TB, queue string, args amqp.Table) {
	t.Helper()
	all := amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}
	maps.Copy(all, args)
	if err := v.Node.patiently(func() error {
		ch, hangUp := v.open(t)
		defer hangUp()
		_, err := ch.QueueDeclare(queue, true, false, false, false, all)
		return err
	}); err != nil {
		t.Fatalf("declare queue %s: %v", queue, err)
	}
}

// DeleteQueue deletes a queue with all that is in it.
func (v *Vhost) DeleteQueue(t testing.TB, queue string) {
	t.Helper()
	if err := v.Node.patiently(func() error {
		ch, hangUp := v.open(t)
		defer hangUp()
		_, err := ch.QueueDelete(queue, false, false, false)
		return err
	}); err != nil {
		t.Fatalf("delete queue %s: %v", queue, err)
	}
}

// Ready is how many messages of the queue wait for a consumer at this moment; -1
// if there is no such queue.
func (v *Vhost) Ready(t testing.TB, queue string) int {
	t.Helper()
	ready, _, _ := v.counts(t, queue)
	return ready
}

// Unacked is how many messages of the queue are with consumers, unacknowledged, at
// this moment; -1 if there is no such queue.
func (v *Vhost) Unacked(t testing.TB, queue string) int {
	t.Helper()
	_, unacked, _ := v.counts(t, queue)
	return unacked
}

// Consumers is how many consumers the queue has at this moment; -1 if there is no
// such queue.
func (v *Vhost) Consumers(t testing.TB, queue string) int {
	t.Helper()
	_, _, consumers := v.counts(t, queue)
	return consumers
}

func (v *Vhost) counts(t testing.TB, queue string) (ready, unacked, consumers int) {
	t.Helper()
	ready, unacked, consumers, ok, err := v.Node.counts(v.Name, queue)
	if err != nil {
		t.Fatalf("count the messages of queue %s: %v", queue, err)
	}
	if !ok {
		return -1, -1, -1
	}
	return ready, unacked, consumers
}

// CloseConnections makes the broker close every connection to the vhost with
// CONNECTION_FORCED and the reason. It returns how many there were.
func (v *Vhost) CloseConnections(t testing.TB, reason string) int {
	t.Helper()
	n, err := v.Node.CloseConnections(v.Name, reason)
	if err != nil {
		t.Fatalf("close the connections: %v", err)
	}
	return n
}

// Connections is how many connections to the vhost there are at this moment, and how
// many channels on all of them.
func (v *Vhost) Connections(t testing.TB) (connections, channels int) {
	t.Helper()
	connections, channels, err := v.Node.Connections(v.Name)
	if err != nil {
		t.Fatalf("count the connections: %v", err)
	}
	return connections, channels
}

// LoseLeader leaves a quorum queue without a leader, as the end of most of its nodes does:
// who asks for it waits, or is refused with INTERNAL_ERROR. restore, which the end of the
// test calls at the latest, gives it back with all that is in it.
func (v *Vhost) LoseLeader(t testing.TB, queue string) (restore func()) {
	t.Helper()
	if err := v.Node.leader("stop_server", v.Name, queue); err != nil {
		t.Fatalf("stop the leader of queue %s: %v", queue, err)
	}
	restore = sync.OnceFunc(func() {
		if err := v.Node.mend(context.Background()); err != nil {
			t.Errorf("mend the node: %v", err)
			return
		}
		if err := v.Node.leader("restart_server", v.Name, queue); err != nil {
			t.Errorf("start the leader of queue %s again: %v", queue, err)
		}
	})
	t.Cleanup(restore)
	return restore
}

// SuspendLeader has the leader of a quorum queue answer nobody, as one does that most of
// its members have lost. resume, which the end of the test calls at the latest, has it go
// on with all that came meanwhile.
func (v *Vhost) SuspendLeader(t testing.TB, queue string) (resume func()) {
	t.Helper()
	if err := v.Node.suspendLeader("suspend", v.Name, queue); err != nil {
		t.Fatalf("suspend the leader of queue %s: %v", queue, err)
	}
	resume = sync.OnceFunc(func() {
		if err := v.Node.suspendLeader("resume", v.Name, queue); err != nil {
			t.Errorf("resume the leader of queue %s: %v", queue, err)
		}
	})
	t.Cleanup(resume)
	return resume
}

// AddUser adds a user with the given permissions (regular expressions on names;
// empty permits nothing) in the vhost, until the test ends. It returns the AMQP URL
// for that user. Names of users are shared by the whole node.
func (v *Vhost) AddUser(t testing.TB, name, password, configure, write, read string) string {
	t.Helper()
	if err := v.Node.addUser(name, password, v.Name, configure, write, read); err != nil {
		t.Fatalf("add user %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := v.Node.mend(context.Background()); err != nil {
			t.Errorf("mend the node after the test: %v", err)
			return
		}
		if err := v.Node.deleteUser(name); err != nil {
			t.Errorf("delete user %s: %v", name, err)
		}
	})
	return amqpURL("amqp", name, password, v.Node.Addr(), v.Name)
}

// SetPolicy sets a policy with a definition in JSON on what matches the pattern;
// applyTo is queues, exchanges, all, or another word the broker knows.
func (v *Vhost) SetPolicy(t testing.TB, name, pattern, definition, applyTo string) {
	t.Helper()
	if err := v.Node.setPolicy(v.Name, name, pattern, definition, applyTo); err != nil {
		t.Fatalf("set policy %s: %v", name, err)
	}
}
