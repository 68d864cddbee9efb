package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer/internal/outage"
)

// abandonAfter is how long work may take to notice that its context has ended,
// before it is abandoned.
const abandonAfter = time.Second

// ErrAbandoned is what Run returns if work was still going on when the shutdown
// timeout had passed. Its messages are back in their queues.
var ErrAbandoned = errors.New("work was abandoned at the shutdown timeout")

// A Consumer works the queues of a Config.
type Consumer struct {
	cfg    Config
	top    topology
	log    *slog.Logger
	nodes  []*node
	loops  []*queueLoop
	fires  []*scheduleLoop
	meters *meters
	outage outage.Outage // of what all queues share

	connection atomic.Pointer[ConnectionStatus] // written by the supervisor alone
	session    atomic.Pointer[session]          // nil while not connected; as well
	turned     pulse                            // the supervisor's
	relayed    pulse                            // the outbox's

	publishTimeout time.Duration // that of the constant, but in tests
}

// A node is one of the broker's, and what went wrong with it last.
type node struct {
	url    string
	outage outage.Outage
}

// New makes a Consumer. It connects to nothing yet. The error names every fault
// of cfg.
func New(cfg Config, log *slog.Logger) (*Consumer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	c := &Consumer{cfg: cfg, top: topologyOf(cfg.Queues), log: log, publishTimeout: publishTimeout}
	c.connection.Store(&ConnectionStatus{LostAt: time.Now()})
	for _, u := range cfg.Nodes {
		c.nodes = append(c.nodes, &node{url: u})
	}
	meters, err := newMeters(cfg.Telemetry.MeterProvider, c)
	if err != nil {
		return nil, err
	}
	c.meters = meters
	for _, q := range cfg.Queues {
		c.loops = append(c.loops, newQueueLoop(q, c))
	}
	for _, s := range cfg.Schedules {
		l, err := newScheduleLoop(s, c)
		if err != nil {
			return nil, err
		}
		c.fires = append(c.fires, l)
	}
	return c, nil
}

// Run consumes until ctx ends, then finishes what has been started, as
// Config.ShutdownTimeout says. It blocks until then, and may be called once. It
// reconnects for ever; only a fault that is lasting, such as a refused password or
// a queue with other arguments, and that is there before the first delivery, ends
// it at once with an error. Otherwise it returns nil after a clean end and
// ErrAbandoned if work was cut short. All that it started has ended when it
// returns, but for abandoned work.
func (c *Consumer) Run(ctx context.Context) error {
	accepting, stop := context.WithCancel(ctx)
	defer stop()
	work, endWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer endWork(nil)
	abandon, endWaiting := context.WithCancel(context.WithoutCancel(ctx))
	defer endWaiting()

	var loops, others sync.WaitGroup
	for _, l := range c.loops {
		loops.Go(func() { l.run(accepting, work, abandon) })
	}
	for _, l := range c.fires {
		l.announce(time.Now())
		loops.Go(func() { l.run(accepting, work) })
	}
	if c.cfg.Outbox != nil {
		r := &relay{nodes: c.cfg.Nodes, timeout: c.publishTimeout, ready: c.connected, meters: c.meters, log: c.log}
		loops.Go(func() { r.run(accepting, work, c.cfg.Outbox, &c.relayed) })
	}
	ended := make(chan struct{})
	others.Go(func() {
		loops.Wait()
		close(ended)
	})
	others.Go(func() { c.enforce(ctx, ended, endWork, endWaiting) })

	err := c.supervise(accepting, ended)
	stop()
	others.Wait()
	if err != nil {
		return err
	}

	var total tally
	for _, l := range c.loops {
		total.finished += l.stopped.finished
		total.returned += l.stopped.returned
		total.abandoned += l.stopped.abandoned
	}
	c.log.Info("stopped", "finished", total.finished, "returned", total.returned, "abandoned", total.abandoned)
	if total.abandoned > 0 {
		return fmt.Errorf("%w: %d", ErrAbandoned, total.abandoned)
	}
	return nil
}

// enforce holds the loops to the shutdown timeout from when ctx ends, until they
// have ended.
func (c *Consumer) enforce(ctx context.Context, ended <-chan struct{}, endWork context.CancelCauseFunc, endWaiting context.CancelFunc) {
	select {
	case <-ctx.Done():
		c.log.Info("stopping, finishing what has been started", "shutdown_timeout", c.cfg.ShutdownTimeout)
	case <-ended:
		return
	}
	select {
	case <-time.After(c.cfg.ShutdownTimeout):
		c.log.Warn("the shutdown timeout has passed, cutting short what is still going on")
		endWork(ErrShutdown)
	case <-ended:
		return
	}
	select {
	case <-time.After(abandonAfter):
		endWaiting()
	case <-ended:
	}
}

// supervise keeps a session open and gives each new one to the loops, until they
// have ended. It returns an error if the start is faulty.
func (c *Consumer) supervise(ctx context.Context, ended <-chan struct{}) error {
	defer c.turned.end()
	for first := true; ; first = false {
		s, err := c.connect(ctx, first)
		if ctx.Err() != nil {
			if s != nil {
				s.close()
			}
			c.turned.end()
			<-ended
			return nil
		}
		if err != nil {
			return err
		}
		c.log.Info("connected", "node", s.node, "version", s.broker.version)
		c.connection.Store(&ConnectionStatus{Node: s.node})
		c.session.Store(s)
		for _, l := range c.loops {
			l.offer(s)
		}
		for _, l := range c.fires {
			l.offer(s)
		}
		lost := s.watch(ended, &c.turned)
		c.session.Store(nil)
		s.close()
		if lost == nil {
			return nil
		}
		c.connection.Store(&ConnectionStatus{Node: s.node, LostAt: time.Now(), Reconnecting: true, Fault: lost.Error()})
		c.meters.reconnects.Add(ctx, 1)
		c.log.Warn("connection lost, connecting again; work under way goes on", "node", s.node, "error", lost)
	}
}

// reconnectBackoff paces what is tried for ever. Its cap is what an operator may
// have to wait for after the cause has ended.
func reconnectBackoff() retry.Backoff {
	return retry.WithCappedDuration(3*time.Second, retry.WithJitterPercent(20, retry.NewExponential(200*time.Millisecond)))
}

// connect opens a session with the first node that can be used, and tries for ever.
// The first time, it returns an error for a fault that is lasting on every node, or
// in what has to be declared.
func (c *Consumer) connect(ctx context.Context, first bool) (*session, error) {
	return retry.DoValue(ctx, reconnectBackoff(), func(ctx context.Context) (*session, error) {
		var errs []error
		lasting := true
		for _, n := range c.nodes {
			c.turned.beat(time.Now())
			s, err := openSession(ctx, n.url, c.top, c.log)
			if err == nil {
				s.publish.timeout = c.publishTimeout
				n.outage.End(c.log.With("node", s.node), "the node can be used again")
				if err = c.declare(s, first); err != nil {
					s.close()
				}
				return s, err
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			now := *c.connection.Load()
			now.Node, now.Fault = nodeName(n.url), err.Error()
			c.connection.Store(&now)
			n.outage.Begin(c.log.With("node", nodeName(n.url)), slog.LevelWarn, "cannot use the node", err)
			errs = append(errs, fmt.Errorf("node %s: %w", nodeName(n.url), err))
			lasting = lasting && isLasting(err)
		}
		if err := errors.Join(errs...); !first || !lasting {
			return nil, retry.RetryableError(err)
		} else {
			return nil, err
		}
	})
}

// declare makes sure of the wait queues and, the first time, of all else that the
// loops will need. Only then does a fault that is lasting keep the session from
// being used: later, what works goes on.
func (c *Consumer) declare(s *session, first bool) error {
	err := ensure(s.consume, c.top.waitDeclarations(), c.top.passive(), "WARREN_QUEUE_<NAME>_")
	if first {
		for _, q := range c.cfg.Queues {
			err = errors.Join(err, ensure(s.consume, q.declarations(), q.Passive, q.EnvPrefix))
		}
		for _, l := range c.fires {
			err = errors.Join(err, ensure(s.consume, l.declarations(), c.top.passive(), l.EnvPrefix))
		}
	}
	switch {
	case err == nil:
		c.outage.End(c.log, "all queues are as they should be again")
	case s.isLost():
		return retry.RetryableError(err)
	case first && isLasting(err):
		return err
	default:
		c.outage.Begin(c.log, slog.LevelError, "some queues are not as they should be", err)
	}
	return nil
}
