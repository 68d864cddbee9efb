package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/metric"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/outage"
	"github.com/warrenmq/warren/consumer/internal/pulse"
)

// heartbeat is that of the connection. RabbitMQ takes a silent peer for dead after three:
// that is how long a host that vanished still leads.
const heartbeat = time.Second

// maxShort is the length of AMQP's short strings, such as a message-id.
const maxShort = 255

// Config is what a [Runner] is made from.
type Config struct {
	// Schedules are the schedules to run. Each name may stand only once.
	Schedules []Schedule
	// Version is the program's, for schedules that fire once.
	Version string
	// Dialer connects to the node that is offered.
	Dialer broker.Dialer
	// Passive is true if nothing may be declared.
	Passive bool
	// Queues are those that are worked. One that is deleted is declared again.
	Queues []broker.Queue
	// MeterProvider says where metrics go. Nil means nowhere.
	MeterProvider metric.MeterProvider
}

// Validate returns every fault of the schedules, joined.
func (c Config) Validate() error {
	var errs []error
	seen := make(map[string]bool)
	for _, s := range c.Schedules {
		if seen[s.Name] {
			errs = append(errs, fmt.Errorf("schedule %s stands in the list of schedules twice", s.Name))
		}
		seen[s.Name] = true
		errs = append(errs, s.Validate())
		if most := min(maxVersion, maxShort-len(s.Name+"@")); s.Once && len(c.Version) > most {
			errs = append(errs, fmt.Errorf("schedule %s fires once for each version; that of this program, %.20s..., may have %d bytes", s.Name, c.Version, most))
		}
	}
	return errors.Join(errs...)
}

// A Runner fires the schedules that it leads.
type Runner struct {
	cfg   Config
	log   *slog.Logger
	loops []*loop

	conn   *broker.Conn  // nil: none. Run's alone
	nodes  chan string   // the newest that has been offered
	unable chan struct{} // a loop cannot take part in an election
	outage outage.Outage // of the connection
	turned pulse.Pulse
	left   sync.WaitGroup // what ends with the connection
}

// New makes a Runner, which connects to nothing yet. The error names every fault of cfg.
func New(cfg Config, log *slog.Logger) (*Runner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Runner{cfg: cfg, log: log, nodes: make(chan string, 1), unable: make(chan struct{}, 1)}
	for _, s := range cfg.Schedules {
		l, err := newLoop(s.withDefaults(), r)
		if err != nil {
			return nil, err
		}
		r.loops = append(r.loops, l)
	}
	return r, r.observe(cfg.MeterProvider)
}

// Declare makes sure of the queues of the tokens or, where nothing may be declared, looks
// whether they are there.
func (r *Runner) Declare(conn *broker.Conn) error {
	var tokens []broker.Declaration
	for _, l := range r.loops {
		tokens = append(tokens, tokenDeclaration(l.Schedule, conn.Version))
	}
	return conn.Ensure(tokens, r.cfg.Passive, "") // each explains itself
}

// Offer names a node, by its URL, that can be used now. It never blocks. Only one
// goroutine at a time may call it.
func (r *Runner) Offer(nodeURL string) {
	select {
	case <-r.nodes:
	default:
	}
	r.nodes <- nodeURL
}

// Run fires what is due until ctx ends; then it hands over, once each firing that is under
// way is in the broker, or work has ended. It blocks until then, and may be called once.
// All that it started has ended when it returns.
func (r *Runner) Run(ctx, work context.Context) {
	if len(r.loops) == 0 {
		return
	}
	var loops sync.WaitGroup
	for _, l := range r.loops {
		l.announce(time.Now())
		loops.Go(func() { l.run(ctx, work) })
	}
	r.keepConnected(ctx)
	loops.Wait()
	if conn := r.conn; conn != nil {
		conn.Close()
	}
	r.left.Wait()
}

// keepConnected keeps a connection to the newest node that has been offered until ctx
// ends, and gives each to the loops. While one of them cannot take part in an election,
// and another node is offered than the one connected to, it connects to that.
func (r *Runner) keepConnected(ctx context.Context) {
	r.turned.Beat(time.Now())
	defer r.turned.End()
	turns := time.NewTicker(pulse.Every)
	defer turns.Stop()
	var node string
	var closes <-chan *amqp.Error
	var retryAt <-chan time.Time
	var began time.Time
	backoff := broker.Backoff()
	for {
		select {
		case <-ctx.Done():
			return
		case <-turns.C:
			r.turned.Beat(time.Now())
			continue
		case node = <-r.nodes:
			backoff = broker.Backoff()
		case <-r.unable:
			if r.conn == nil {
				continue
			}
		case reason := <-closes:
			r.outage.Begin(r.log, slog.LevelWarn, noConnection, broker.LostBecause(reason))
			r.conn.Close()
			r.conn, closes = nil, nil
			if time.Since(began) < youngFor { // what has ended it may end the next one
				d, _ := backoff.Next()
				retryAt = time.After(d)
				continue
			}
			backoff = broker.Backoff()
		case <-retryAt:
		}
		retryAt = nil
		if r.conn != nil {
			if r.conn.Node == broker.NodeName(node) || !r.isUnable() {
				continue
			}
			r.conn.Close()
			r.conn, closes = nil, nil
		}
		if !r.dial(ctx, node) {
			d, _ := backoff.Next()
			retryAt = time.After(d)
			continue
		}
		closes, began = r.conn.Closes(), time.Now()
		for _, l := range r.loops {
			l.offer(r.conn)
		}
	}
}

// youngFor is how old a connection has to become for the next one not to be waited for.
const youngFor = 10 * time.Second

const noConnection = "there is no connection for the schedules, connecting again"

// dial connects to a node. It tells whether it has.
func (r *Runner) dial(ctx context.Context, node string) bool {
	conn, err := r.cfg.Dialer.Dial(ctx, node, broker.Options{Purpose: "schedule", Heartbeat: heartbeat, OnBlocked: func(active bool, _ string) {
		for _, l := range r.loops {
			l.tell(active)
		}
	}})
	if ctx.Err() != nil {
		if err == nil {
			conn.Close()
		}
		return false
	}
	if err != nil {
		r.outage.Begin(r.log.With("node", broker.NodeName(node)), slog.LevelWarn, noConnection, err)
		for _, l := range r.loops {
			l.state.setFault(err)
		}
		return false
	}
	r.outage.End(r.log.With("node", conn.Node), "the schedules are connected again")
	r.conn = conn
	return true
}

// isUnable tells whether a loop cannot take part in an election.
func (r *Runner) isUnable() bool {
	return slices.ContainsFunc(r.loops, func(l *loop) bool { return l.outage.Reason() != "" })
}

// reportUnable has it looked at whether there is a better node. It never blocks.
func (r *Runner) reportUnable() {
	select {
	case r.unable <- struct{}{}:
	default:
	}
}
