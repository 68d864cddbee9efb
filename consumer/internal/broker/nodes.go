package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/outage"
	"github.com/warrenmq/warren/consumer/internal/pulse"
)

const (
	// lookEvery is how often it is looked whether the node of the session works, and
	// maxLookEvery how often at least while none does: each look connects to all others.
	lookEvery    = 2 * time.Second
	maxLookEvery = 20 * time.Second
	// searchFor is how long all nodes are asked side by side for one that works. Some time
	// passes until they have elected leaders in place of those on a node that is lost, 9 s
	// as RabbitMQ comes, or on 3.10 until they count it as down, 13 s by our advice.
	searchFor = 15 * time.Second
	// steadyAfter is how long a session must have lived for the move to it to have been
	// worth it: after one that was not, a node has twice as long to answer.
	steadyAfter = 5 * time.Minute
	maxPatience = time.Minute
)

// Nodes are those of one cluster that a daemon may use. It prefers the first, its home.
type Nodes struct {
	// HomeAfter is how long, in the mean, a daemon stays away from its home. Zero means
	// ten minutes.
	HomeAfter time.Duration

	passive  bool // nothing may be declared
	dialer   Dialer
	log      *slog.Logger
	nodes    []*node
	first    int           // begin with this one
	patience time.Duration // with the node of the session
	stalled  outage.Outage // of that node
	blind    outage.Outage // it is not known whether nodes work
}

// A node is one of the broker's, and what went wrong with it last.
type node struct {
	url, name string
	log       *slog.Logger
	outage    outage.Outage
}

// NewNodes makes Nodes, with none connected to. Nothing is declared if passive is true.
func NewNodes(d Dialer, urls []string, passive bool, log *slog.Logger) *Nodes {
	n := &Nodes{passive: passive, dialer: d, log: log, patience: answersWithin}
	for _, u := range urls {
		name := NodeName(u)
		n.nodes = append(n.nodes, &node{url: u, name: name, log: log.With("node", name)})
	}
	return n
}

// Open opens a session with the first node that can be used. It tells tried of each, and
// why it cannot be used, if it cannot. The error joins these; it is lasting if all are.
func (n *Nodes) Open(ctx context.Context, tried func(node string, err error)) (s *Session, lasting bool, err error) {
	var errs []error
	lasting = true
	for i := range n.nodes {
		node := n.nodes[(n.first+i)%len(n.nodes)]
		tried(node.name, nil)
		s, err := n.dialer.OpenSession(ctx, node.url, n.log)
		if err == nil {
			node.outage.End(node.log, "the node can be used again")
			return s, false, nil
		}
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		tried(node.name, err)
		node.outage.Begin(node.log, slog.LevelWarn, "cannot use the node", err)
		errs = append(errs, fmt.Errorf("node %s: %w", node.name, err))
		lasting = lasting && IsLasting(err)
	}
	return nil, lasting, errors.Join(errs...)
}

// ErrHome says that the home works, and the session is with another node.
var ErrHome = errors.New("the preferred node works again")

// Home is the URL of the preferred node.
func (n *Nodes) Home() string { return n.nodes[0].url }

// Watch blocks as [Session.Watch] does. It returns an error as well if the session is to
// be given up for another node, and ErrHome if it is to be replaced by one with the home.
func (n *Nodes) Watch(s *Session, ended <-chan struct{}, renewals <-chan Renewal, turned *pulse.Pulse) (Renewal, error) {
	if len(n.nodes) == 1 {
		return s.Watch(ended, renewals, nil, turned)
	}
	at := slices.IndexFunc(n.nodes, func(o *node) bool { return o.name == s.Node() }) // its URL may have a new password
	n.first = (at + 1) % len(n.nodes)                                                 // a node that is lost may be so for long
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error, 1)
	var looking sync.WaitGroup
	looking.Go(func() { n.look(ctx, s, at, left) })
	renewal, err := s.Watch(ended, renewals, left, turned)
	cancel()
	looking.Wait()
	n.stalled.End(n.nodes[at].log, "the node is left")
	return renewal, err
}

// Stalled is why the node of the session does not work; empty if it does.
func (n *Nodes) Stalled() string { return n.stalled.Reason() }

// look watches whether the node of a session works until ctx ends. If another one is
// better, it says why the session is to be given up.
func (n *Nodes) look(ctx context.Context, s *Session, at int, left chan<- error) {
	node, pause, failed := n.nodes[at], lookEvery, 0
	home := time.After(n.homeAfter())
	for ; ctx.Err() == nil; Sleep(ctx, pause) {
		if time.Since(s.Began) > steadyAfter {
			n.patience = answersWithin
		}
		err := n.alive(ctx, n.patience, s.Publish, s.Trial.Do)
		s.stalled.Store(err != nil)
		switch {
		case ctx.Err() != nil || s.IsLost():
			return
		case err == nil:
			pause, failed = lookEvery, 0
			n.stalled.End(node.log, "the node works again")
			select {
			case <-home:
				if at != 0 && n.works(ctx, n.patience, n.nodes[0]) {
					left <- ErrHome
					return
				}
				home = time.After(n.homeAfter())
			default:
			}
			continue
		}
		n.stalled.Begin(node.log, slog.LevelWarn, "the node does not work, looking for one that does", err)
		better := n.working(ctx, s, at)
		if better == at {
			pause = 0 // it may be well again
			continue
		}
		if better >= 0 {
			n.first, n.patience = better, min(2*n.patience, maxPatience)
			left <- fmt.Errorf("%w; node %s works", err, n.nodes[better].name)
			return
		}
		if failed++; failed > 1 {
			pause = min(2*pause, maxLookEvery)
		}
	}
}

func (n *Nodes) homeAfter() time.Duration {
	mean := n.HomeAfter
	if mean == 0 {
		mean = 10 * time.Minute
	}
	return mean/2 + rand.N(mean) // not all daemons at once
}

// working returns the first node that is found to work, that of the session at the index
// included; negative if none does.
func (n *Nodes) working(ctx context.Context, s *Session, at int) int {
	ctx, cancel := context.WithTimeout(ctx, searchFor)
	defer cancel()
	found := make(chan int, len(n.nodes)) // never blocks
	var looking sync.WaitGroup
	for i, node := range n.nodes {
		looking.Go(func() {
			if i == at && n.alive(ctx, searchFor, s.Publish, s.Trial.Do) == nil || i != at && n.works(ctx, searchFor, node) {
				found <- i
				cancel()
			}
		})
	}
	looking.Wait()
	close(found)
	if i, ok := <-found; ok {
		return i
	}
	return -1
}

// works connects to a node and looks whether it works.
func (n *Nodes) works(ctx context.Context, within time.Duration, node *node) bool {
	dialing, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	c, err := n.dialer.Dial(dialing, node.url, Options{Purpose: "look"})
	if err != nil {
		return false
	}
	defer c.Close()
	return n.alive(ctx, within, c, func(_ context.Context, f func(*Conn) error) error { return f(c) }) == nil
}

// alive looks whether a node works over c. Where that needs a queue to be declared first,
// this is done over a connection that may be lost by it.
func (n *Nodes) alive(ctx context.Context, within time.Duration, c *Conn, declare func(context.Context, func(*Conn) error) error) error {
	err := c.Alive(ctx, within)
	if errors.Is(err, errNoQueue) && !n.passive {
		ctx, cancel := context.WithTimeoutCause(ctx, 2*within, errStalled)
		defer cancel()
		err = declare(ctx, func(c *Conn) error {
			return c.await(ctx, func(c *Conn) error { return c.Ensure([]Declaration{declareAlive()}, false, "") })
		})
		if err == nil {
			err = c.Alive(ctx, within)
		}
	}
	if reply, ok := errors.AsType[*amqp.Error](err); errors.Is(err, errNoQueue) || ok && reply.Code == amqp.AccessRefused {
		n.blind.Begin(n.log, slog.LevelWarn, "a node that answers but does not work will not be noticed: there is no queue warren.alive", err)
		return nil
	}
	return err
}
