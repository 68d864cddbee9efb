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

	"github.com/warrenmq/warren/consumer/internal/brake"
	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/control"
	"github.com/warrenmq/warren/consumer/internal/meters"
	"github.com/warrenmq/warren/consumer/internal/outage"
	"github.com/warrenmq/warren/consumer/internal/pulse"
	"github.com/warrenmq/warren/consumer/internal/relay"
	"github.com/warrenmq/warren/consumer/schedule"
)

// abandonAfter is how long work may take to notice that its context has ended,
// before it is abandoned.
const abandonAfter = time.Second

// ErrAbandoned is what Run returns if work was still going on when the shutdown
// timeout had passed. Its messages are back in their queues.
var ErrAbandoned = errors.New("work was abandoned at the shutdown timeout")

// A Consumer works the queues of a Config.
type Consumer struct {
	cfg       Config
	log       *slog.Logger
	dialer    broker.Dialer
	nodes     *broker.Nodes
	loops     []*queueLoop
	schedules *schedule.Runner
	control   *control.Control
	meters    *meters.Meters
	outage    outage.Outage // of what has to be declared

	connection atomic.Pointer[ConnectionStatus] // written by the supervisor alone
	sessions   *broker.Newest                   // as well
	turned     pulse.Pulse                      // the supervisor's
	relayed    pulse.Pulse                      // the outbox's
	renewals   chan broker.Renewal              // received by the supervisor alone
	retiring   sync.WaitGroup                   // sessions that have been replaced
	pacer      broker.Pacer                     // of sessions that die young

	publishTimeout time.Duration // of one offer; that of the constant, but in tests
}

// New makes a Consumer. It connects to nothing yet. The error names every fault
// of cfg.
func New(cfg Config, log *slog.Logger) (*Consumer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	instruments, err := broker.NewInstruments(cfg.Telemetry.TracerProvider, cfg.Telemetry.MeterProvider, cfg.Telemetry.Propagator)
	if err != nil {
		return nil, err
	}
	c := &Consumer{
		cfg: cfg, log: log, sessions: broker.NewNewest(), publishTimeout: broker.PublishTimeout,
		dialer:   broker.Dialer{Program: cfg.Program, Worker: cfg.Worker, User: cfg.User, Instruments: instruments, Secrets: broker.NewSecrets(cfg.ReadNodes, cfg.NodesFrom, log)},
		renewals: make(chan broker.Renewal),
	}
	c.connection.Store(&ConnectionStatus{LostAt: time.Now()})
	c.nodes = broker.NewNodes(c.dialer, cfg.Nodes, cfg.schedules(c.dialer).Passive, log)
	states := make([]*meters.Queue, len(cfg.Queues))
	for i, q := range cfg.Queues {
		states[i] = meters.NewQueue(q.Name, q.Concurrency, len(actionNames), brake.New(!q.Unbraked, q.Concurrency, log.With("queue", q.Name)))
	}
	c.meters, err = meters.New(cfg.Telemetry.MeterProvider, meters.Source{
		Version: cfg.Version, Connected: func() bool { return c.connection.Load().LostAt.IsZero() }, Queues: states, Verdicts: actionNames[:], Reasons: reasons,
	})
	if err != nil {
		return nil, err
	}
	var worked []control.Queue
	for i, q := range cfg.Queues {
		c.loops = append(c.loops, newQueueLoop(q, states[i], c))
		worked = append(worked, control.Queue{Queue: states[i], Settings: q.Settings, Attempts: c.loops[i].attempts})
	}
	c.control = control.New(control.Config{
		Daemon: control.Self(cfg.Program, cfg.Version), Queues: worked, Verdicts: actionNames[:], Users: cfg.ControlUsers, Log: log, Level: cfg.LogLevel,
		Schedules: func() []schedule.Status { return c.schedules.Status() },
	})
	if c.schedules, err = schedule.New(cfg.schedules(c.dialer), log); err != nil {
		return nil, err
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
	loops.Go(func() { c.schedules.Run(accepting, work) })
	if c.cfg.Outbox != nil {
		r := &relay.Relay{
			Outbox: c.cfg.Outbox, Node: c.sessions.Node, Dialer: c.dialer, Timeout: c.publishTimeout, Turned: &c.relayed, Log: c.log,
		}
		loops.Go(func() { r.Run(accepting, work) })
	}
	ended, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	heard, unheard := context.WithCancel(context.WithoutCancel(ctx)) // what hangs while the daemon stops can be cancelled
	others.Go(func() {
		loops.Wait()
		end()
		unheard()
	})
	others.Go(func() { c.control.Run(heard) })
	others.Go(func() { c.enforce(ctx, ended.Done(), endWork, endWaiting, end) })

	err := c.supervise(accepting, ended.Done())
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

// enforce holds the loops to the shutdown timeout from when ctx ends, until they have
// ended or, since they may wait for a broker that does not answer, count as such.
func (c *Consumer) enforce(ctx context.Context, ended <-chan struct{}, endWork context.CancelCauseFunc, endWaiting, end context.CancelFunc) {
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
	returned := abandonAfter
	for _, l := range c.loops {
		returned = max(returned, 2*l.executor.returnFor) // longer in tests
	}
	select {
	case <-time.After(abandonAfter):
		endWaiting()
	case <-ended:
		return
	}
	select {
	case <-time.After(returned):
		end()
	case <-ended:
	}
}

// supervise keeps a session open and gives each new one to whoever needs it, until the
// loops have ended. It returns an error if the start is faulty.
func (c *Consumer) supervise(ctx context.Context, ended <-chan struct{}) error {
	defer c.retiring.Wait()
	defer c.turned.End()
	for first := true; ; first = false {
		s, err := c.connect(ctx, first)
		if ctx.Err() != nil {
			c.sessions.Stop()
			if s != nil {
				s.Close()
			}
			c.turned.End()
			<-ended
			return nil
		}
		if err != nil {
			return err
		}
		c.log.Info("connected", "node", s.Node(), "version", s.Consume.Version.Number)
		c.connection.Store(&ConnectionStatus{Node: s.Node()})
		c.control.Begin(ctx, s)
		c.give(s)
		c.schedules.Offer(s.Consume.URL)
		unstop := context.AfterFunc(ctx, c.sessions.Stop) // there will be no other one
		renewal, lost := c.nodes.Watch(s, ended, c.renewals, &c.turned)
		for ; renewal != nil || errors.Is(lost, broker.ErrHome); renewal, lost = c.nodes.Watch(s, ended, c.renewals, &c.turned) {
			if renewal != nil {
				s, err = c.renew(ctx, s, ended)
				renewal <- err
			} else if s, err = c.replace(ctx, s, c.nodes.Home(), ended); err == nil { // or it is tried again
				c.log.Info("back on the preferred node; what is in flight is finished over the connection before", "node", s.Node())
			}
		}
		unstop()
		c.sessions.Set(nil)
		s.Close()
		if lost == nil {
			return nil
		}
		c.connection.Store(&ConnectionStatus{Node: s.Node(), LostAt: time.Now(), Reconnecting: true, Fault: lost.Error()})
		c.meters.Reconnected(ctx)
		c.log.Warn("connection lost, connecting again; work under way goes on", "node", s.Node(), "error", lost)
		c.turned.Beat(time.Now())
		c.pacer.Pace(ctx, time.Since(s.Began))
	}
}

// give has s be the session that is used.
func (c *Consumer) give(s *broker.Session) {
	c.sessions.Set(s)
	for _, l := range c.loops {
		l.offer(s)
	}
}

// Renew connects anew if passwords or certificates have changed, and returns an error if
// those that there are now do not work: then the connection that there is stays. What is
// in flight is finished over that. It blocks until then, or until ctx ends.
func (c *Consumer) Renew(ctx context.Context) error {
	result := make(chan error, 1)
	select {
	case c.renewals <- result:
		return <-result
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// renew replaces the session s by another one if that is what Renew asks for. It returns
// the one to use.
func (c *Consumer) renew(ctx context.Context, s *broker.Session, ended <-chan struct{}) (*broker.Session, error) {
	if err := c.dialer.Renewed(ctx, s.Consume.URL); err != nil || !s.Consume.IsOutdated() {
		return s, err
	}
	next, err := c.replace(ctx, s, s.Consume.URL, ended)
	if err == nil {
		c.log.Info("connected anew with new secrets; what is in flight is finished over the connection before", "node", s.Node())
	}
	return next, err
}

// replace opens a session with a node, and has s end when what it has in flight is
// finished. It returns the one to use, which is s after an error.
func (c *Consumer) replace(ctx context.Context, s *broker.Session, nodeURL string, ended <-chan struct{}) (*broker.Session, error) {
	next, err := c.dialer.OpenSession(ctx, nodeURL, c.log)
	if err != nil {
		return s, err
	}
	c.connection.Store(&ConnectionStatus{Node: next.Node()})
	c.control.Begin(ctx, next)
	c.give(next)
	c.schedules.Offer(nodeURL)
	c.retiring.Go(func() { s.Retire(ended) })
	return next, nil
}

// connect opens a session with the first node that can be used, and tries for ever. The
// first time, it returns an error for a fault that is lasting on every node, or in what
// has to be declared.
func (c *Consumer) connect(ctx context.Context, first bool) (*broker.Session, error) {
	return retry.DoValue(ctx, broker.Backoff(), func(ctx context.Context) (*broker.Session, error) {
		s, lasting, err := c.nodes.Open(ctx, func(node string, err error) {
			c.turned.Beat(time.Now())
			if err != nil {
				now := *c.connection.Load()
				now.Node, now.Fault = node, err.Error()
				c.connection.Store(&now)
			}
		})
		switch {
		case err == nil:
			if err = c.declare(ctx, s, first); err != nil {
				s.Close()
				return nil, err
			}
			return s, nil
		case first && lasting || ctx.Err() != nil:
			return nil, err
		}
		return nil, retry.RetryableError(err)
	})
}

// declare makes sure, the first time, of all that the loops will need. Only then does a
// fault that is lasting keep the session from being used: later, what works goes on, and
// each loop looks after its own.
func (c *Consumer) declare(ctx context.Context, s *broker.Session, first bool) error {
	if !first {
		return nil
	}
	var err error
	for _, q := range c.cfg.Queues {
		b := q.onBroker()
		if text := b.LongWork(s.Consume.Version); text != "" {
			c.log.Warn("attempts may take longer than the broker allows", "queue", q.Name, "reason", text)
		}
		err = errors.Join(err, s.Trial.Do(ctx, func(conn *broker.Conn) error {
			return conn.Ensure(b.Declarations(), b.Passive, b.EnvPrefix)
		}))
	}
	err = errors.Join(err, c.schedules.Declare(s.Consume))
	switch {
	case err == nil:
		c.outage.End(c.log, "all queues are as they should be again")
	case s.IsLost():
		return retry.RetryableError(err)
	case broker.IsLasting(err):
		return err
	default:
		c.outage.Begin(c.log, slog.LevelError, "some queues are not as they should be", err)
	}
	return nil
}
