package schedule

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/outage"
	"github.com/warrenmq/warren/consumer/internal/pulse"
)

// A loop takes part in the election of the leader of one schedule and, while it leads,
// fires it. Its goroutine is the only one that uses the fields below.
//
// The schedule's queue has a single active consumer, and holds a token with the record
// of what is done. Whoever is handed the token leads. All that it does rests on one
// act, the claim: it publishes a new token with all that it knows, waits until that is
// handed to itself, and acknowledges what came before. A claim that comes back proves
// that nobody else leads, that no other token is left unread, and that the record is in
// the broker.
type loop struct {
	Schedule
	plan   *plan // nil: fires once for each version
	firing broker.Outgoing
	runner *Runner
	log    *slog.Logger
	conns  chan *broker.Conn // the newest; written by the Runner alone
	blocks chan bool         // whether the broker takes no messages, the newest word

	known    record
	leading  bool
	outage   outage.Outage // of the election
	unfired  outage.Outage
	ahead    outage.Outage // the record is ahead of this host's clock
	patience time.Duration // with a queue that refuses what is fired
	turns    *time.Ticker
	timeouts timeouts
	state    state
}

// timeouts are those below, but in tests.
type timeouts struct {
	renew, token, fire, refused time.Duration
}

var defaultTimeouts = timeouts{
	// renew is how often a token is published even if nothing fires: the leader's, since
	// the broker gives no delivery longer than its consumer timeout; a follower's, since
	// the leader's may have been lost, and nobody would ever be handed one.
	renew: time.Minute,
	// token is how long a token may take to be confirmed, and then to come back.
	token: 5 * time.Second,
	// fire is how long a firing may take to be confirmed.
	fire: 10 * time.Second,
	// refused is how long a term goes on while the queue refuses what is fired.
	refused: 10 * time.Second,
}

// newLoop makes a loop of a valid schedule, which has its defaults.
func newLoop(s Schedule, r *Runner) (*loop, error) {
	timing, err := s.timing()
	if err != nil {
		return nil, err
	}
	firing, err := s.outgoing()
	if err != nil {
		return nil, err
	}
	firing.Message.AppId = r.cfg.Dialer.Name()
	for _, q := range r.cfg.Queues {
		if declare := q.Redeclare(s.Queue); declare != nil {
			firing.Declare = declare
		}
	}
	l := &loop{
		Schedule: s,
		firing:   firing,
		runner:   r,
		log:      r.log.With("schedule", s.Name),
		conns:    make(chan *broker.Conn, 1),
		blocks:   make(chan bool, 1),
		timeouts: defaultTimeouts,
		patience: defaultTimeouts.refused,
	}
	if timing != nil {
		l.plan = &plan{timing, s.Name, s.Jitter, s.Misfire}
	}
	return l, nil
}

// offer gives the loop a new connection, in place of one it has not taken yet. Only the
// Runner calls it; it never blocks.
func (l *loop) offer(conn *broker.Conn) {
	select {
	case <-l.conns:
	default:
	}
	l.conns <- conn
}

// tell says whether the broker takes messages, in place of what has not been heard yet.
// Only one connection at a time calls it; it never blocks.
func (l *loop) tell(blocked bool) {
	select {
	case <-l.blocks:
	default:
	}
	l.blocks <- blocked
}

// announce logs when the schedule fires next.
func (l *loop) announce(now time.Time) {
	if l.plan == nil {
		l.log.Info("schedule fires once for this version", "queue", l.Queue, "version", l.version())
		return
	}
	next, _ := l.plan.next(now)
	l.log.Info("schedule", "queue", l.Queue, "rule", l.rule(), "next", next)
}

func (l *loop) version() string { return l.runner.cfg.Version }

// beat shows that the loop makes progress. A ticker's own time may be that of a tick
// which has waited for long.
func (l *loop) beat() { l.state.turned.Beat(time.Now()) }

// run takes part in the election until ctx ends; then it hands over, once a firing that
// is under way is in the broker, or work has ended.
func (l *loop) run(ctx, work context.Context) {
	l.beat()
	defer l.state.turned.End()
	l.turns = time.NewTicker(pulse.Every)
	defer l.turns.Stop()
	var conn *broker.Conn
	var backoff retry.Backoff
	var retryAt <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.turns.C:
			l.beat()
			continue
		case conn = <-l.conns:
			backoff = broker.Backoff()
		case <-retryAt:
		}
		retryAt = nil
		led, err := l.attend(ctx, work, conn)
		if ctx.Err() != nil {
			return
		}
		l.state.setFault(err)
		if conn.IsClosed() {
			continue // the Runner says why, and brings another one
		}
		if led {
			backoff = broker.Backoff()
		}
		d, _ := backoff.Next()
		retryAt = time.After(d)
		if errors.Is(err, errRefusing) {
			continue // and has been logged
		}
		l.outage.Begin(l.log, slog.LevelWarn, "cannot take part in the election of the schedule's leader, trying again", err)
		l.runner.reportUnable()
	}
}

// attend stays until ctx ends or something fails. Nothing of it is left then: with the
// channel, the token goes to the next in line, and what the broker has not taken by
// then, it never will. led is true if it has led.
func (l *loop) attend(ctx, work context.Context, conn *broker.Conn) (led bool, err error) {
	t, err := l.open(ctx, conn)
	if err != nil {
		return false, err
	}
	defer func() { _ = t.ch.GiveUp() }() // it is lost already, then
	defer func() {
		if l.leading {
			l.leading, led = false, true
			l.state.leading.Store(false)
			l.state.ahead.Store(0)
			l.log.Info("leads the schedule no longer")
		}
	}()
	return false, t.serve(ctx, work)
}

// open begins a term. What it does has to wait while the broker takes nothing from the
// connection; if ctx ends meanwhile, that is left to the end of the connection.
func (l *loop) open(ctx context.Context, conn *broker.Conn) (*term, error) {
	type result struct {
		t   *term
		err error
	}
	results := make(chan result, 1)
	l.runner.left.Go(func() {
		if err := conn.Ensure([]broker.Declaration{tokenDeclaration(l.Schedule, conn.Version)}, l.runner.cfg.Passive, ""); err != nil {
			results <- result{nil, err}
			return
		}
		t, err := l.newTerm(conn)
		results <- result{t, err}
	})
	for {
		select {
		case r := <-results:
			return r.t, r.err
		case <-l.turns.C:
			l.beat()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
