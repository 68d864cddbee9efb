package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"
	"go.opentelemetry.io/otel/attribute"

	"github.com/warrenmq/warren/internal/failpoint"
)

const (
	// connectTimeout bounds the TCP, TLS and AMQP handshakes of one connection.
	connectTimeout = 10 * time.Second
	// closeTimeout bounds how long a broker that does not answer can delay the end of a
	// connection.
	closeTimeout = time.Second
)

// A Dialer connects to nodes. Zero is one whose connections are traced and counted
// nowhere.
type Dialer struct {
	// Program is what this program is called, to whoever lists connections and consumers.
	// Empty means warren.
	Program string
	// Worker names this process, host and version, to whoever lists connections.
	Worker string
	// User is the name by which the broker knows this process. Empty means that of the
	// URL; there it is missing where a certificate stands for it.
	User string
	// Secrets are what it connects with. Nil means what the URL says, and the files that
	// it names.
	Secrets *Secrets
	// Instruments take the spans and counts of what is published. Nil means nothing.
	Instruments *Instruments
}

// Options of one connection.
type Options struct {
	// Purpose names it: consume, publish and so on.
	Purpose string
	// Heartbeat is the time between two. Zero means that of the library, 10 s; one that
	// the URL names wins.
	Heartbeat time.Duration
	// OnBlocked is told when the broker begins and ceases to take no messages. It must
	// not block. Nil means that nobody is.
	OnBlocked func(active bool, reason string)
}

// Name is what the program is called.
func (d Dialer) Name() string { return cmp.Or(d.Program, "warren") }

// A Conn is one connection to a node.
type Conn struct {
	*amqp.Connection
	Name    string // program, purpose and worker
	Node    string // host:port
	URL     string // with the password: for another connection, never for a text
	Version Version
	User    string               // the broker's name for this process; empty: not known
	Server  []attribute.KeyValue // the node, for spans

	socket     net.Conn
	door       *door
	closes     chan *amqp.Error
	blocked    atomic.Bool
	blockedFor atomic.Pointer[string] // the alarm, in the words of the broker: low on memory
	idle       chan *confirming
	looking    chan asking // a channel to look at queues with, while nobody does; zero: not open yet
	metered    *Instruments

	sharedMu sync.Mutex
	shared   *shared // nil: not needed yet

	login    login
	dialer   Dialer
	directMu sync.Mutex
	direct   *Conn // for direct replies; nil: not needed yet

	watching sync.WaitGroup // whether it is blocked
	mu       sync.Mutex
	closing  bool           // nothing more may be begun
	begun    sync.WaitGroup // publishes
}

// askAgainAfter is how long a login waits that may not have been refused at all.
const askAgainAfter = time.Second

// dial connects to a node with that login; see Dial. A node that refuses it ends the
// connection without a word, and so does one that is lost in that moment: it is tried
// twice.
func (d Dialer) dial(ctx context.Context, l login, o Options) (*Conn, error) {
	c, err := d.dialOnce(ctx, l, o)
	if errors.Is(err, amqp.ErrCredentials) && Sleep(ctx, askAgainAfter) {
		c, err = d.dialOnce(ctx, l, o)
	}
	return c, err
}

func (d Dialer) dialOnce(ctx context.Context, l login, o Options) (*Conn, error) {
	c := &Conn{Node: NodeName(l.url), URL: l.url, User: d.User, login: l, dialer: d, metered: d.Instruments, idle: make(chan *confirming, maxIdleChannels), looking: make(chan asking, 1)}
	c.looking <- asking{}
	if c.metered == nil {
		c.metered = noInstruments
	}
	if c.User == "" {
		c.User = userOf(l.url)
	}
	c.Server = serverAttributes(c.Node)
	properties := amqp.NewConnectionProperties()
	c.Name = strings.TrimSpace(d.Name() + " " + o.Purpose + " " + d.Worker)
	properties.SetClientConnectionName(c.Name)
	plainURL, secured, err := l.secured()
	if err != nil {
		return nil, Explain(err)
	}
	release := func() bool { return true }
	shaken := false
	c.Connection, err = amqp.DialConfig(plainURL, amqp.Config{
		Properties: properties,
		Heartbeat:  o.Heartbeat,
		Dial: func(network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			c.socket = conn
			failpoint.Connected(conn)
			// The library lifts the deadline after the handshake, but knows of no
			// context.
			release = context.AfterFunc(ctx, func() { _ = conn.Close() })
			if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
				return nil, errors.Join(err, conn.Close())
			}
			if secured != nil {
				client := tls.Client(conn, secured)
				if err := client.Handshake(); err != nil {
					_ = conn.Close()
					return nil, err
				}
				conn, shaken = client, true
			}
			c.door = newDoor(conn)
			return c.door, nil
		},
	})
	if !release() && err == nil {
		_ = c.CloseDeadline(time.Now())
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, l.explain(err, shaken)
	}
	c.door.frameMax.Store(int64(c.Config.FrameSize))
	c.Version = versionOf(c.Connection)
	c.closes = c.NotifyClose(make(chan *amqp.Error, 1))
	blocks := c.NotifyBlocked(make(chan amqp.Blocking, 1))
	c.watching.Go(func() {
		for b := range blocks { // closed with the connection
			c.blockedFor.Store(&b.Reason)
			c.blocked.Store(b.Active)
			if o.OnBlocked != nil {
				o.OnBlocked(b.Active, b.Reason)
			}
		}
	})
	return c, nil
}

// DialAny connects to the first of nodes that can be used.
func (d Dialer) DialAny(ctx context.Context, nodes []string, o Options) (*Conn, error) {
	var errs []error
	for _, node := range nodes {
		c, err := d.Dial(ctx, node, o)
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("node %s: %w", NodeName(node), err))
	}
	return nil, errors.Join(errs...)
}

// Closes gets why the connection ended, once, and is closed then; see [LostBecause].
func (c *Conn) Closes() <-chan *amqp.Error { return c.closes }

// Blocked tells whether the broker takes no messages for now.
func (c *Conn) Blocked() bool { return c.blocked.Load() }

// Close ends the connection, waiting at most closeTimeout for the broker to agree. It
// returns when all that c has started has ended.
func (c *Conn) Close() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	late := time.AfterFunc(closeTimeout, func() {
		_ = c.socket.Close()
		_, _ = c.Channel() // the library ends with what it cannot write, also if it does not read
	})
	_ = c.CloseDeadline(time.Now().Add(closeTimeout)) // an error means that it was closed or lost already
	late.Stop()
	_ = c.socket.Close() // ends a write that the broker does not take
	c.directMu.Lock()
	if c.direct != nil {
		c.direct.Close()
	}
	c.directMu.Unlock()
	c.begun.Wait()
	c.watching.Wait()
}

// Finish closes the connection once the publishes that have begun are answered, and lets
// no other begin. It blocks until then.
func (c *Conn) Finish() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.begun.Wait()
	c.directMu.Lock()
	direct := c.direct
	c.directMu.Unlock() // Close is to end it, should it not be answered
	if direct != nil {
		direct.Finish()
	}
	c.Close()
}

// OnChannel runs f with a channel of its own, that an error of the broker closes.
func (c *Conn) OnChannel(f func(*amqp.Channel) error) error {
	a, err := c.asking()
	if err != nil {
		return err
	}
	err = a.do(f)
	a.close()
	return err
}

// An asking is a channel to ask something on.
type asking struct {
	ch     *amqp.Channel
	closes chan *amqp.Error
}

func (c *Conn) asking() (asking, error) {
	ch, err := c.Channel()
	if err != nil {
		return asking{}, err
	}
	return asking{ch, ch.NotifyClose(make(chan *amqp.Error, 1))}, nil
}

// do runs f. If that has had the broker close the channel, it returns why.
func (a asking) do(f func(*amqp.Channel) error) error {
	err := f(a.ch)
	if err == nil || !a.ch.IsClosed() {
		return err
	}
	if reason := <-a.closes; reason != nil {
		return reason // f may have seen only that the channel was closed
	}
	return err
}

func (a asking) close() {
	if a.ch != nil && !a.ch.IsClosed() {
		_ = a.ch.Close() // it has served its purpose
	}
}

// Backoff paces what is tried for ever. Its cap is what an operator may have to wait for
// after the cause has ended.
func Backoff() retry.Backoff {
	return retry.WithCappedDuration(3*time.Second, retry.WithJitterPercent(20, retry.NewExponential(200*time.Millisecond)))
}

// Sleep waits for d and returns true, or false as soon as ctx ends.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// NodeName is the host:port of an AMQP URL, fit for logs.
func NodeName(nodeURL string) string {
	u, err := url.Parse(nodeURL)
	if err != nil {
		return "(unreadable URL)"
	}
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "amqps":
		port = "5671"
	default:
		port = "5672"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// userOf is the user name that a URL logs in with; empty if a certificate does.
func userOf(nodeURL string) string {
	u, err := url.Parse(nodeURL)
	switch {
	case err != nil || u.Query().Get("auth_mechanism") == "external":
		return ""
	case u.User == nil:
		return "guest" // as the library has it
	}
	return u.User.Username()
}

// LostBecause is why a connection or channel was closed. Nil is given if nobody said so.
func LostBecause(err *amqp.Error) error {
	if err == nil {
		return errors.New("the connection was closed")
	}
	return Explain(err)
}

// WithGrace returns a context that ends so long after ctx.
func WithGrace(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(d, func() { cancel(context.Cause(ctx)) })
	})
	return out, func() {
		stop()
		cancel(nil)
	}
}
