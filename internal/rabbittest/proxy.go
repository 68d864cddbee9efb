package rabbittest

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/freeport"
)

// A Direction is a way for bytes to take through a [Proxy]. They add up.
type Direction int

// The directions.
const (
	ToNode   Direction = 1 << iota // what the client sends
	FromNode                       // what the client receives
	BothWays = ToNode | FromNode
)

// A Proxy is a stretch of network between a client and a node, of which a test can
// make a bad one. Its methods may be used by several goroutines.
type Proxy struct {
	// Addr is the host and port to connect to instead of the node's.
	Addr string

	target string
	links  sync.WaitGroup // and their pumps
	accept sync.WaitGroup // the loop that accepts, while there is a listener
	count  atomic.Int64   // of those accepted

	mu       sync.Mutex
	listener net.Listener       // nil: refusing
	live     map[*link]struct{} // connections under way
	flows    map[Direction]chan struct{}
	delay    time.Duration
	swallow  func([]byte) bool
}

// A link is one client's connection and ours to the node.
type link struct {
	client, node *net.TCPConn
	closed       chan struct{}
	once         sync.Once
}

// NewProxy starts a proxy that hands every connection on to target, a host and
// port, until the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	port, err := freeport.Port()
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: loopback(port), target: target, live: make(map[*link]struct{}), flows: make(map[Direction]chan struct{})}
	p.Restore(t)
	t.Cleanup(func() {
		p.Refuse()
		p.links.Wait()
	})
	return p
}

// Accepted is how many connections there have been so far.
func (p *Proxy) Accepted() int { return int(p.count.Load()) }

// Restore makes the network good again: connections are accepted, and bytes flow.
// None that were held up are lost.
func (p *Proxy) Restore(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for d, flow := range p.flows {
		close(flow)
		delete(p.flows, d)
	}
	p.delay = 0
	if p.listener != nil {
		return
	}
	listener, err := freeport.Listen(p.Addr)
	if err != nil {
		t.Fatalf("listen as a proxy: %v", err)
	}
	p.listener = listener
	p.accept.Go(func() { p.serve(listener) })
}

// Cut resets every connection, as a firewall does that has forgotten them. New ones
// are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.live {
		_ = l.client.SetLinger(0) // closing then resets
		_ = l.node.SetLinger(0)
		l.close()
	}
}

// Refuse cuts every connection and stops listening.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.accept.Wait()
	p.Cut()
}

// Stall lets no more bytes through in the given direction, on connections there are
// and on new ones, as a network does that loses every packet: nobody is told.
func (p *Proxy) Stall(direction Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range []Direction{ToNode, FromNode} {
		if direction&d != 0 && p.flows[d] == nil {
			p.flows[d] = make(chan struct{})
		}
	}
}

// Slow has whatever comes wait for so long before it goes on, either way: some kilobytes at
// a time.
func (p *Proxy) Slow(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}

// Swallow drops what comes from the node for which drop returns true. It is asked for each
// piece that arrives; what a node sends after a silence is one.
func (p *Proxy) Swallow(drop func([]byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow = drop
}

func (p *Proxy) serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		p.count.Add(1)
		node, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		l := &link{client: client.(*net.TCPConn), node: node.(*net.TCPConn), closed: make(chan struct{})}
		p.mu.Lock()
		p.live[l] = struct{}{}
		p.mu.Unlock()
		p.links.Go(func() {
			var pumps sync.WaitGroup
			pumps.Go(func() { p.pump(l, l.node, l.client, ToNode) })
			pumps.Go(func() { p.pump(l, l.client, l.node, FromNode) })
			pumps.Wait()
			p.mu.Lock()
			delete(p.live, l)
			p.mu.Unlock()
		})
	}
}

// pump copies bytes one way until either side ends, and then ends both.
func (p *Proxy) pump(l *link, to, from *net.TCPConn, d Direction) {
	defer l.close()
	buf := make([]byte, 32<<10)
	for {
		n, readErr := from.Read(buf)
		p.mu.Lock()
		stalled, delay, swallow := p.flows[d], p.delay, p.swallow
		p.mu.Unlock()
		if swallow != nil && d == FromNode && readErr == nil && swallow(buf[:n]) {
			continue
		}
		if delay > 0 {
			select {
			case <-time.After(delay):
			case <-l.closed:
				return
			}
		}
		if stalled != nil {
			select {
			case <-stalled:
			case <-l.closed:
				return
			}
		}
		if _, err := to.Write(buf[:n]); err != nil || readErr != nil {
			return
		}
	}
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.closed)
		_ = l.client.Close()
		_ = l.node.Close()
	})
}
