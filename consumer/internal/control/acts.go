package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/inflight"
)

// do does what is asked by a user who is obeyed.
func (c *Control) do(ctx context.Context, r fleet.Request, user string, answer *fleet.Answer) error {
	r.Why, r.From = broker.Shortened(r.Why, maxErrorText), broker.Shortened(r.From, 255)
	by := user
	if r.From != "" {
		by += " (" + r.From + ")"
	}
	switch r.Verb {
	case fleet.VerbStatus:
		answer.Status = c.status(ctx, r)
		return nil
	case fleet.VerbPaused:
		if r.Pause != nil {
			r.Pause.By, r.Pause.Why = by, broker.Shortened(r.Pause.Why, maxErrorText)
		}
		return c.heed(r)
	case fleet.VerbQuiet:
		answer.Done = 1
		c.quiet(&fleet.Pause{By: by, Why: r.Why, Since: time.Now().UTC()})
		c.Log.Warn("asked to take no messages until it is told to work; what is in flight is finished", "by", by, "why", r.Why)
		return nil
	case fleet.VerbWork:
		answer.Done = 1
		c.quiet(nil)
		c.Log.Info("asked to work: messages are taken again", "by", by, "why", r.Why)
		return nil
	case fleet.VerbCancel:
		return c.cancel(ctx, r, by, answer)
	case fleet.VerbLevel:
		return c.level(r, by, answer)
	}
	return fmt.Errorf("this daemon (%s) does not know the verb %q; it may be older than what asks", c.Daemon.Version, broker.Shortened(r.Verb, 100))
}

func (c *Control) quiet(p *fleet.Pause) {
	for _, q := range c.Queues {
		q.Halt.Quiet(p)
	}
}

// cancel ends the attempts at the messages of that id.
func (c *Control) cancel(ctx context.Context, r fleet.Request, by string, answer *fleet.Answer) error {
	if r.MessageID == "" {
		return errors.New("no message-id is given")
	}
	for i := range c.Queues {
		q := &c.Queues[i]
		if r.Queue != "" && r.Queue != q.Name {
			continue
		}
		for _, a := range c.attempts(ctx, q) {
			if a.MessageID == r.MessageID {
				answer.Done++
				c.Log.Warn("the attempt is cancelled; if it fails, its message is dead-lettered", "queue", q.Name, "message_id", a.MessageID, "attempt", a.Number, "by", by, "why", r.Why)
				a.Message.Cancel(&inflight.Cancelled{By: by, Why: r.Why})
			}
		}
	}
	return nil
}

// level has the log of that level for a while.
func (c *Control) level(r fleet.Request, by string, answer *fleet.Answer) error {
	var level slog.Level
	lasts := time.Duration(r.ForMillis) * time.Millisecond
	switch err := level.UnmarshalText([]byte(r.Level)); {
	case err != nil || level < slog.LevelDebug || level > slog.LevelError:
		return fmt.Errorf("the level is %q; it must be debug, info, warn or error", broker.Shortened(r.Level, 100))
	case c.Level == nil:
		return errors.New("the level of this daemon's log cannot be changed")
	case lasts <= 0 || lasts > fleet.MaxLevel:
		return fmt.Errorf("the level may be changed for up to %v", fleet.MaxLevel)
	}
	if c.levelled == nil {
		c.usual = c.Level.Level()
	}
	c.Level.Set(min(level, slog.LevelWarn))
	c.Log.Warn("the level of the log is changed for a while", "log_level", level.String(), "duration", lasts, "by", by, "why", r.Why)
	c.Level.Set(level)
	c.levelled = time.After(lasts)
	answer.Done = 1
	return nil
}

// unlevel has the log of its usual level again.
func (c *Control) unlevel() {
	if c.levelled != nil {
		c.levelled = nil
		c.Level.Set(min(c.usual, slog.LevelInfo))
		c.Log.Info("the log is of its usual level again", "log_level", c.usual.String())
		c.Level.Set(c.usual)
	}
}
