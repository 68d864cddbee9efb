package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer/internal/outage"
)

// A scheduleLoop takes part in the election of the leader of one schedule and, while it
// leads, fires it. Its goroutine is the only one that uses its connection and the
// fields below.
//
// The schedule's queue has a single active consumer, and holds a token with the record
// of what is done. Whoever is handed the token leads. All that it does rests on one
// act, the claim: it publishes a new token with all that it knows, waits until that is
// handed to itself, and acknowledges what came before. A claim that comes back proves
// that nobody else leads, that no other token is left unread, and that the record is in
// the broker.
type scheduleLoop struct {
	Schedule
	plan     *plan // nil: fires once for each version
	msg      amqp.Publishing
	version  string
	top      topology
	log      *slog.Logger
	meters   queueMeters
	tracing  tracing
	sessions chan *session // the newest; written by the supervisor alone

	known    record
	leading  bool
	outage   outage.Outage // of the election
	unfired  outage.Outage
	ahead    outage.Outage // the record is ahead of this host's clock
	timeouts scheduleTimeouts
	state    scheduleState
}

// scheduleTimeouts are those below, but in tests.
type scheduleTimeouts struct {
	renew, token, fire time.Duration
}

var scheduleDefaults = scheduleTimeouts{
	// renew is how often a token is published even if nothing fires: the leader's, since
	// the broker gives no delivery longer than its consumer timeout; a follower's, since
	// the leader's may have been lost, and nobody would ever be handed one.
	renew: time.Minute,
	// token is how long a token may take to be confirmed, and then to come back.
	token: 5 * time.Second,
	// fire is how long a firing may take to be confirmed.
	fire: 10 * time.Second,
}

// scheduleHeartbeat is that of a schedule's connection. RabbitMQ takes a silent peer for
// dead after three: that is how long a host that vanished still leads.
const scheduleHeartbeat = time.Second

func newScheduleLoop(s Schedule, c *Consumer) (*scheduleLoop, error) {
	timing, err := s.timing()
	if err != nil {
		return nil, err // which Validate has seen
	}
	msg, err := Message{Body: s.Body, ContentType: s.ContentType, Type: s.Type, AppID: "warren", Headers: s.Headers}.publishing()
	if err != nil {
		return nil, fmt.Errorf("%sHEADERS: %w", s.EnvPrefix, err)
	}
	l := &scheduleLoop{
		Schedule: s,
		msg:      msg,
		version:  c.cfg.Version,
		top:      c.top,
		log:      c.log.With("schedule", s.Name),
		meters:   queueMeters{meters: c.meters, name: s.Queue},
		tracing:  newTracing(c.cfg.Telemetry, s.Queue),
		sessions: make(chan *session, 1),
		timeouts: scheduleDefaults,
	}
	if timing != nil {
		l.plan = &plan{timing, s.Name, s.Jitter, s.Misfire}
	}
	return l, nil
}

// offer gives the loop a new session, in place of one it has not taken yet. Only the
// supervisor calls it; it never blocks.
func (l *scheduleLoop) offer(s *session) {
	select {
	case <-l.sessions:
	default:
	}
	l.sessions <- s
}

// announce logs when the schedule fires next.
func (l *scheduleLoop) announce(now time.Time) {
	if l.plan == nil {
		l.log.Info("schedule fires once for this version", "queue", l.Queue, "version", l.version)
		return
	}
	next, _ := l.plan.next(now)
	l.log.Info("schedule", "queue", l.Queue, "rule", l.rule(), "next", next)
}

// run takes part in the election until ctx ends; then it hands over, once a firing that
// is under way is in the broker, or work has ended. It connects to the node of the
// newest session.
func (l *scheduleLoop) run(ctx, work context.Context) {
	l.state.turned.beat(time.Now())
	defer l.state.turned.end()
	turns := time.NewTicker(turnEvery)
	defer turns.Stop()
	var s *session
	var backoff retry.Backoff
	var retryAt <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-turns.C:
			l.state.turned.beat(now)
			continue
		case s = <-l.sessions:
			backoff = reconnectBackoff()
		case <-retryAt:
		}
		led, err := l.attend(ctx, work, s)
		if ctx.Err() != nil {
			return
		}
		if led {
			backoff = reconnectBackoff()
		}
		if !s.isLost() { // or it is the node's fault, and logged as such
			l.outage.Begin(l.log, slog.LevelWarn, "cannot take part in the election of the schedule's leader, trying again", err)
		}
		l.state.setFault(err)
		d, _ := backoff.Next()
		retryAt = time.After(d)
	}
}

// attend connects, and stays until ctx ends or something fails. Nothing of it is left
// then: with the connection, the token goes to the next in line, and what the broker
// has not taken by then, it never will. led is true if it has led.
func (l *scheduleLoop) attend(ctx, work context.Context, s *session) (led bool, err error) {
	conn, _, err := connectSocket(ctx, s.url, "schedule "+l.Name, scheduleHeartbeat)
	if err != nil {
		return false, explain(err)
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) }()
	if err := ensure(conn, l.declarations(), l.top.passive(), l.EnvPrefix); err != nil {
		return false, err
	}
	t, err := l.newTerm(conn, s)
	if err != nil {
		return false, explain(err)
	}
	defer func() {
		if l.leading {
			l.leading, led = false, true
			l.state.leading.Store(false)
			l.log.Info("leads the schedule no longer")
		}
	}()
	return false, t.serve(ctx, work)
}

func (l *scheduleLoop) declarations() []declaration {
	return []declaration{tokenDeclaration(l.Schedule)}
}
