package mail

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Times of a kept connection. Servers close one after some minutes, and firewalls
// forget it without telling either side.
const (
	checkAfter   = 5 * time.Second // idle for longer, it is checked before use
	checkTimeout = 5 * time.Second
	dropAfter    = time.Minute // idle for so long, it is closed
)

// A pool sends mails over sessions that it keeps for the next mail. As many may be
// open at once as there are calls of send, which the queue's concurrency bounds;
// no send waits for another.
//
// It is our own, over the protocol in go-mail's package smtp. go-mail's client has one
// connection, which its users share one at a time; and the pools that there are tell
// neither the step nor the reply at which a mail was refused, which the verdict
// depends on, nor do they end with a context.
type pool struct {
	relay *relay
	size  int // so many are kept
	log   *slog.Logger
	// dropAfter is the constant, but shorter in a test.
	dropAfter time.Duration

	mu     sync.Mutex
	idle   []*idleConn // the last used last
	closed bool
	quits  sync.WaitGroup // sessions that their timers are closing
}

type idleConn struct {
	*conn
	since time.Time
	drop  *time.Timer
}

func newPool(r *relay, size int, log *slog.Logger) *pool {
	return &pool{relay: r, size: size, log: log, dropAfter: dropAfter}
}

// send gives m to the relay, over a kept session if there is one.
func (p *pool) send(ctx context.Context, m *mail) error {
	if ctx.Err() != nil { // dial would take that for a server that is away
		return context.Cause(ctx)
	}
	c, err := p.begin(ctx, m)
	if err != nil {
		return err
	}
	if err := c.bounded(ctx, func() error { return c.finish(m) }); err != nil {
		return err
	}
	p.put(c)
	return nil
}

// begin returns a session in which m has begun. A kept one that turns out to be
// dead is replaced: nothing has been sent in it yet.
func (p *pool) begin(ctx context.Context, m *mail) (*conn, error) {
	if c, idleFor := p.take(); c != nil {
		err := c.bounded(ctx, func() error {
			if err := c.check(idleFor); err != nil {
				return err
			}
			return c.begin(m)
		})
		if err == nil {
			return c, nil
		}
		if !isGone(err) || ctx.Err() != nil {
			return nil, err
		}
		p.log.Debug("kept smtp connection was dead, connecting anew", "error", err, "idle", idleFor)
	}
	c, err := p.relay.dial(ctx)
	if err != nil {
		return nil, err
	}
	p.log.Debug("smtp connection opened", "server", p.relay.address)
	if err := c.bounded(ctx, func() error { return c.begin(m) }); err != nil {
		return nil, err
	}
	return c, nil
}

// check finds out whether a session that was idle for long is still alive. A dead
// one often does not answer at all, and MAIL may rightly take longer than NOOP.
func (c *conn) check(idleFor time.Duration) error {
	if idleFor < checkAfter {
		return nil
	}
	if err := c.net.SetDeadline(time.Now().Add(checkTimeout)); err != nil {
		return err
	}
	if err := c.Noop(); err != nil {
		return err
	}
	return c.net.SetDeadline(time.Time{})
}

// take returns the session that was used last, and how long ago; nil if none is
// idle. The others grow old, and are dropped when there are more than needed.
func (p *pool) take() (*conn, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil, 0
	}
	last := len(p.idle) - 1
	i := p.idle[last]
	p.idle = p.idle[:last]
	i.drop.Stop() // if it has fired already, it does not find i any more
	return i.conn, time.Since(i.since)
}

// put keeps c for the next mail.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= p.size {
		c.net.Close()
		return
	}
	i := &idleConn{conn: c, since: time.Now()}
	i.drop = time.AfterFunc(p.dropAfter, func() { p.dropIdle(i) })
	p.idle = append(p.idle, i)
}

// dropIdle closes i if it is still idle.
func (p *pool) dropIdle(i *idleConn) {
	p.mu.Lock()
	n := slices.Index(p.idle, i)
	if n < 0 {
		p.mu.Unlock()
		return
	}
	p.idle = slices.Delete(p.idle, n, n+1)
	p.quits.Add(1)
	p.mu.Unlock()
	defer p.quits.Done()
	i.quit()
}

// Close ends the kept sessions, and waits for that. A session that is in use is
// closed when its send returns.
func (p *pool) Close() error {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, i := range idle {
		i.drop.Stop()
		p.quits.Go(i.quit)
	}
	p.quits.Wait()
	return nil
}
