package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/attribute"
)

const (
	// connectTimeout bounds the TCP, TLS and AMQP handshakes of one connection.
	connectTimeout = 10 * time.Second
	// closeTimeout bounds how long a broker that does not answer can delay the
	// end of a session.
	closeTimeout = time.Second
)

// A session is a connection to consume and one to publish, both to the same node:
// an alarm on the broker stops it from reading what a publisher sends, and the
// acknowledgements must not wait behind that. It is built whole and thrown away
// whole; nothing of it survives its connections.
type session struct {
	node    string               // host:port
	server  []attribute.KeyValue // the same, for spans
	broker  broker
	consume *amqp.Connection
	publish *publisher

	closes [2]chan *amqp.Error // of the two connections
	blocks chan amqp.Blocking
	log    *slog.Logger
}

// openSession connects to one node. It blocks for at most two connectTimeouts, or
// until ctx ends.
func openSession(ctx context.Context, nodeURL string, top topology, log *slog.Logger) (*session, error) {
	s := &session{node: nodeName(nodeURL), log: log}
	s.server = serverAttributes(s.node)
	var err error
	if s.consume, err = connect(ctx, nodeURL, "consume"); err != nil {
		return nil, explain(err)
	}
	publish, err := connect(ctx, nodeURL, "publish")
	if err != nil {
		_ = s.consume.CloseDeadline(time.Now().Add(closeTimeout))
		return nil, explain(err)
	}
	s.broker = brokerOf(s.consume)
	for i, conn := range []*amqp.Connection{s.consume, publish} {
		s.closes[i] = conn.NotifyClose(make(chan *amqp.Error, 1))
	}
	s.blocks = publish.NotifyBlocked(make(chan amqp.Blocking, 1))
	s.publish = newPublisher(publish, top)
	return s, nil
}

// connect opens one connection. An error may hold the URL and its password; see
// explain.
func connect(ctx context.Context, nodeURL, purpose string) (*amqp.Connection, error) {
	conn, _, err := connectSocket(ctx, nodeURL, purpose)
	return conn, err
}

// connectSocket is as connect, and returns the socket as well: to close it is the
// only way to end a write that the broker does not take.
func connectSocket(ctx context.Context, nodeURL, purpose string) (*amqp.Connection, net.Conn, error) {
	var socket net.Conn
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName("warren " + purpose)
	release := func() bool { return true }
	conn, err := amqp.DialConfig(nodeURL, amqp.Config{
		Properties: properties,
		Dial: func(network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			socket = conn
			// The library lifts the deadline after the handshake, but knows of
			// no context.
			release = context.AfterFunc(ctx, func() { _ = conn.Close() })
			return conn, conn.SetDeadline(time.Now().Add(connectTimeout))
		},
	})
	if !release() && err == nil {
		_ = conn.CloseDeadline(time.Now())
		err = context.Cause(ctx)
	}
	return conn, socket, err
}

// isLost tells whether the session can still be used.
func (s *session) isLost() bool { return s.consume.IsClosed() || s.publish.conn.IsClosed() }

// watch blocks until one of the connections is lost, and returns why, or until
// ended is closed, and returns nil. It logs when the broker stops and resumes
// taking what is published.
func (s *session) watch(ended <-chan struct{}) error {
	var blockedSince time.Time
	for {
		select {
		case <-ended:
			return nil
		case err := <-s.closes[0]:
			return lostBecause(err)
		case err := <-s.closes[1]:
			return lostBecause(err)
		case b := <-s.blocks:
			s.publish.blocked.Store(b.Active)
			if b.Active {
				blockedSince = time.Now()
				s.log.Warn("the broker takes no messages for now: retries, dead letters and replies wait; look for a memory or disk alarm",
					"node", s.node, "reason", b.Reason)
			} else if !blockedSince.IsZero() {
				s.log.Info("the broker takes messages again", "node", s.node, "duration", time.Since(blockedSince))
			}
		}
	}
}

func lostBecause(err *amqp.Error) error {
	if err == nil { // the notifier was closed without a reason
		return errors.New("the connection was closed")
	}
	return explain(err)
}

// close ends both connections, waiting at most closeTimeout for the broker to
// agree.
func (s *session) close() {
	deadline := time.Now().Add(closeTimeout)
	var closing sync.WaitGroup
	for _, conn := range []*amqp.Connection{s.consume, s.publish.conn} {
		// An error means that the connection was closed or lost already.
		closing.Go(func() { _ = conn.CloseDeadline(deadline) })
	}
	closing.Wait()
}

// nodeName is the host:port of an AMQP URL, fit for logs.
func nodeName(nodeURL string) string {
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

// A broker is what Warren has to know of the RabbitMQ that it is connected to.
// Whatever depends on the version is decided here.
type broker struct {
	version string
	// nackCounts is true if a delivery that is given back counts toward the
	// delivery limit, as it did until 4.3 split the ways to settle.
	nackCounts bool
}

func brokerOf(conn *amqp.Connection) broker {
	version, _ := conn.Properties["version"].(string)
	return broker{version: version, nackCounts: !atLeast(version, 4, 3)}
}

// atLeast compares the first two numbers of a version. One that cannot be read is
// taken for an old one, whose rules are the stricter.
func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(parts[1])
	if errA != nil || errB != nil {
		return false
	}
	return a > major || a == major && b >= minor
}

func (b broker) String() string { return fmt.Sprintf("RabbitMQ %s", b.version) }
