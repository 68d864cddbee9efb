// Package control has a daemon do what operators ask of all daemons through the broker,
// and leave alone the queues that they have paused.
package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/time/rate"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/outage"
	"github.com/warrenmq/warren/consumer/schedule"
)

const (
	// maxWaiting and maxWaitingBytes bound what waits to be read, and requestFor how long
	// it does: whoever asks has given up by then.
	maxWaiting      = 200
	maxWaitingBytes = 1 << 20
	requestFor      = 30 * time.Second
	prefetch        = 8
	// answerWithin bounds one answer.
	answerWithin = 5 * time.Second
	// refusedEvery paces the lines about requests of those who are not obeyed.
	refusedEvery = time.Second
	refusedBurst = 10
)

// Config is what a [Control] is made from.
type Config struct {
	Daemon fleet.Daemon
	Queues []Queue
	// Verdicts are the names of what attempts may come to, as each Queue counts them.
	Verdicts []string
	// Users are obeyed. None means whoever the broker knows by the same name as this
	// process.
	Users []string
	Log   *slog.Logger
	// Level is that of the log. Nil: it stays as it is.
	Level *slog.LevelVar
	// Schedules are what the daemon has to do with its schedules.
	Schedules func() []schedule.Status
}

// Control is a daemon's end. Its goroutine, Run, is the only one that uses the fields below
// begun.
type Control struct {
	Config
	begun   chan begun // of which only the newest counts
	session *broker.Session
	ch      *amqp.Channel        // nil: none is open
	asked   <-chan amqp.Delivery // nil: nothing is heard
	again   <-chan time.Time     // when to listen once more
	looking *time.Timer          // until what is paused is looked at
	looked  time.Time            // at everything
	pauses  []pause              // of the queues, in their order
	outage  outage.Outage
	refused *rate.Limiter
	silent  int // refused without a line

	watchers watchers
	watching <-chan time.Time // when one of them is sent the status next; nil: nobody watches
	levelled <-chan time.Time // when the log is of its usual level again; nil: it is
	usual    slog.Level
}

// begun is a session that is going to be used.
type begun struct {
	session *broker.Session
	looked  chan struct{} // closed when it is known what is paused
}

// New makes a Control.
func New(cfg Config) *Control {
	return &Control{
		Config: cfg, begun: make(chan begun, 1), pauses: make([]pause, len(cfg.Queues)),
		refused: rate.NewLimiter(rate.Every(refusedEvery), refusedBurst),
	}
}

// Begin has requests heard over a session, in place of the one before, and blocks until it
// is known what is paused, so that nothing is taken that is; or, should that not be found
// out soon, no longer. Only the supervisor calls it, while Run runs.
func (c *Control) Begin(ctx context.Context, s *broker.Session) {
	select {
	case <-c.begun:
	default:
	}
	b := begun{s, make(chan struct{})}
	c.begun <- b
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	select {
	case <-b.looked:
	case <-ctx.Done():
	}
}

// Run does what is asked, until ctx ends. It costs nothing while nobody asks, but for a
// look now and then at what is paused.
func (c *Control) Run(ctx context.Context) {
	c.looking = time.NewTimer(lookSeldom)
	defer c.looking.Stop()
	defer c.close()
	defer c.unlevel()
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-c.begun:
			c.session = b.session
			c.listen()
			c.lookFirst(ctx)
			close(b.looked)
		case d, open := <-c.asked:
			if !open { // the session is lost, or the queue was deleted
				c.asked, c.again = nil, time.After(time.Second)
				continue
			}
			c.serve(ctx, &d)
			_ = d.Ack(false) // or the channel is lost, and the queue with it
		case <-c.watching:
			c.report(ctx)
		case <-c.levelled:
			c.unlevel()
		case <-c.again:
			if c.again = nil; !c.session.IsLost() {
				c.listen()
				c.look(ctx, true)
			}
		case <-c.looking.C:
			if c.session != nil && !c.session.IsLost() {
				c.look(ctx, false)
			} else {
				c.looking.Reset(lookEvery) // the next session is looked at first
			}
		}
	}
}

// listen opens the channel over which requests are heard, or says why it cannot.
func (c *Control) listen() {
	c.close()
	c.again = nil
	var err error
	if c.ch, c.asked, err = c.open(c.session); err == nil {
		c.outage.End(c.Log, "what operators ask of all daemons is heard again")
		return
	}
	if !c.session.IsLost() {
		c.again = time.After(lookSeldom)
		c.outage.Begin(c.Log, slog.LevelWarn, "what operators ask of all daemons is not heard here, the work goes on; what is paused is looked at once a minute",
			broker.Explain(err))
	}
}

func (c *Control) close() {
	if c.ch != nil {
		_ = c.ch.Close() // or it is lost
	}
	c.ch, c.asked = nil, nil
}

// open binds a queue of this process's own to the exchange, and consumes it.
func (c *Control) open(s *broker.Session) (*amqp.Channel, <-chan amqp.Delivery, error) {
	if len(c.Users) == 0 && s.Consume.User == "" {
		return nil, nil, errors.New("the broker's name for this process is not known, and WARREN_CONTROL_USERS names nobody to obey; set that or WARREN_AMQP_USER")
	}
	ch, err := s.Consume.Channel()
	if err != nil {
		return nil, nil, err
	}
	requests, err := c.consume(ch, s.Consume.Name)
	if err != nil {
		_ = ch.Close() // the broker has, as a rule
		return nil, nil, err
	}
	return ch, requests, nil
}

func (c *Control) consume(ch *amqp.Channel, tag string) (<-chan amqp.Delivery, error) {
	if err := broker.DeclareControl().Make(ch); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s.%s.%d.%08x", broker.ControlExchange, c.Daemon.Host, c.Daemon.PID, rand.Uint32())
	if _, err := ch.QueueDeclare(name, false, true, true, false, amqp.Table{
		"x-max-length":       int64(maxWaiting),
		"x-max-length-bytes": int64(maxWaitingBytes),
		"x-message-ttl":      requestFor.Milliseconds(),
		amqp.QueueTypeArg:    amqp.QueueTypeClassic,
	}); err != nil {
		return nil, err
	}
	if err := ch.QueueBind(name, "", broker.ControlExchange, false, nil); err != nil {
		return nil, err
	}
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return nil, err
	}
	return ch.Consume(name, tag, false, true, false, false, nil)
}

// counts tells whether the user is obeyed. The broker has checked the name.
func (c *Control) counts(user string) bool {
	switch {
	case user == "":
		return false
	case len(c.Users) > 0:
		return slices.Contains(c.Users, user)
	}
	return user == c.session.Consume.User
}

// serve does what a request asks for, and answers.
func (c *Control) serve(ctx context.Context, d *amqp.Delivery) {
	var r fleet.Request
	err := errTooLong
	if len(d.Body) <= fleet.MaxRequestBytes {
		err = json.Unmarshal(d.Body, &r)
	}
	switch {
	case !c.counts(d.UserId):
		c.refuse(d, r, "the user is not one of WARREN_CONTROL_USERS")
		return
	case err != nil:
		c.refuse(d, r, "it cannot be read: "+err.Error())
		return
	case len(r.Daemons) > 0 && !slices.Contains(r.Daemons, c.Daemon.Host) && !slices.Contains(r.Daemons, c.Daemon.Name()):
		return
	case d.ReplyTo != "" && !fleet.MayReplyTo(d.ReplyTo):
		c.refuse(d, r, "it is to be answered to another queue than one for that")
		return
	}
	answer := fleet.Answer{Daemon: c.Daemon}
	if err := c.do(ctx, r, d.UserId, &answer); err != nil {
		answer.Error = err.Error()
	}
	if c.answer(ctx, d.ReplyTo, d.CorrelationId, answer) && r.Verb == fleet.VerbStatus {
		now := time.Now()
		c.watchers.add(r, d.ReplyTo, d.CorrelationId, now)
		c.watching = c.watchers.next(now)
	}
}

var errTooLong = fmt.Errorf("it is longer than %d bytes", fleet.MaxRequestBytes)

// refuse logs what is not done.
func (c *Control) refuse(d *amqp.Delivery, r fleet.Request, why string) {
	if !c.refused.Allow() {
		c.silent++
		return
	}
	c.Log.Warn("refused what somebody asks of the daemons", "user", broker.Shortened(d.UserId, 100), "verb", broker.Shortened(r.Verb, 100),
		"queue", broker.Shortened(r.Queue, 255), "reason", why, "more", c.silent)
	c.silent = 0
}

// answer sends an answer, if one is wanted. It tells whether somebody is there to get it.
func (c *Control) answer(ctx context.Context, to, id string, a fleet.Answer) bool {
	if to == "" {
		return false
	}
	body, err := json.Marshal(a)
	if err != nil {
		c.Log.Error("an answer to an operator cannot be written", "error", err)
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	err = c.session.Publish.Publish(ctx, broker.Outgoing{Key: to, Message: amqp.Publishing{
		ContentType: "application/json", CorrelationId: id, Body: body, Expiration: strconv.FormatInt(requestFor.Milliseconds(), 10),
	}})
	return err == nil // else whoever has asked is gone, or asks again
}

// Self is this process.
func Self(program, version string) fleet.Daemon {
	return fleet.Daemon{Host: fleet.Host(), PID: os.Getpid(), Program: cmp.Or(program, "warren"), Version: version, Began: time.Now()}
}
