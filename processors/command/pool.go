package command

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/warrenmq/warren/consumer"
)

// A slot whose children die young waits before the next one, longer each time: a
// program that cannot work is not to keep the machine busy by starting.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// A pool is the program in mode pool: children that stay, as many at most as deliveries
// are processed at once. Each works one delivery at a time and is told of it in a line
// of JSON; see request and reply. A child starts when there is a delivery and no other
// child is free, so that a queue with little to do keeps few.
//
// What a child does wrong costs no other delivery than its own. One that takes too long
// is ended alone, with its group. One that dies, or writes what is no answer, is
// replaced; and since that may be due to what it did earlier, its delivery is
// given to a new child once more. A delivery that a new child fails at has failed.
type pool struct {
	program
	log *slog.Logger

	places chan struct{} // one for each slot that is taken
	mu     sync.Mutex
	free   []*slot // guarded by mu; the next one to take is the last
}

// A slot has a child, or will have one. Whoever has taken it is its only user.
type slot struct {
	child *child    // nil: none yet, or it has ended
	died  time.Time // the last child, without having answered at all
	inRow int       // so many of them
}

func newPool(p program, queue string, size int, log *slog.Logger) *pool {
	pool := &pool{program: p, log: log.With("queue", queue), places: make(chan struct{}, size)}
	for range size {
		pool.free = append(pool.free, new(slot))
	}
	return pool
}

// Close ends all children and waits for them: about a second for one that takes no
// notice. No delivery may be processed any more.
func (p *pool) Close() error {
	var ended sync.WaitGroup
	for _, s := range p.free {
		if s.child != nil {
			ended.Go(s.child.end)
		}
	}
	ended.Wait()
	return nil
}

// Process has a child work d. It blocks until the child has answered or ended: at
// the latest about half a second after ctx has ended.
func (p *pool) Process(ctx context.Context, d consumer.Delivery, scope *consumer.Scope) error {
	s, err := p.take(ctx)
	if err != nil {
		return err
	}
	defer p.release(s)
	for {
		if err := p.ready(ctx, s); err != nil {
			return err
		}
		isNew := s.child.given == 0
		answered, err := s.child.work(ctx, &d, scope)
		switch {
		case answered:
			s.inRow = 0
			return err
		case ctx.Err() != nil: // it was told to stop
			s.child = nil
			return err
		case isNew:
			s.child, s.died = nil, time.Now()
			s.inRow++
			return err
		}
		s.child = nil
		scope.Logger().Warn("the command failed at the message, which is given to another process", "error", err)
		d.Redelivered = true // the first one may have done part of the work
	}
}

// take returns a slot that nobody else uses until it is released, one with a child if
// there is.
func (p *pool) take(ctx context.Context) (*slot, error) {
	if ctx.Err() == nil {
		select {
		case p.places <- struct{}{}:
			p.mu.Lock()
			defer p.mu.Unlock()
			last := len(p.free) - 1
			s := p.free[last]
			p.free = p.free[:last]
			return s, nil
		case <-ctx.Done():
		}
	}
	return nil, context.Cause(ctx)
}

func (p *pool) release(s *slot) {
	p.mu.Lock()
	at := 0
	if s.child != nil {
		at = len(p.free)
	}
	p.free = slices.Insert(p.free, at, s)
	p.mu.Unlock()
	<-p.places
}

// ready sees to it that the slot has a child which runs the program as it now is on disk.
func (p *pool) ready(ctx context.Context, s *slot) error {
	if c := s.child; c != nil {
		switch {
		case c.hasEnded() && c.fault != nil:
			p.log.Warn("the command wrote what is no answer after its last one, its process is replaced", "pid", c.pid, "error", c.fault)
			s.child = nil
		case c.hasEnded():
			p.log.Info("the command ended between two messages, another process is started", "pid", c.pid, "status", c.status)
			s.child = nil
		case p.hasChanged(c.files):
			p.log.Info("the command has changed on disk, its process is replaced", "pid", c.pid)
			c.end()
			s.child = nil
		}
	}
	if s.child != nil {
		return nil
	}
	if s.inRow > 0 {
		backoff := min(minBackoff<<min(s.inRow-1, 10), maxBackoff)
		timer := time.NewTimer(time.Until(s.died.Add(backoff)))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c, err := p.newChild()
	if err != nil {
		return startError(err)
	}
	s.child = c
	return nil
}

// A file is what tells a version of a file from another one.
type file struct {
	device, inode uint64
	modified      syscall.Timespec
	size          int64
}

// files returns those that the children run: the program and, since that may be an
// interpreter, whatever its arguments name. What is not there now is left zero.
func (p *program) files() []file {
	files := make([]file, len(p.args))
	for i, path := range p.args {
		if i == 0 {
			path = p.path
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			s := info.Sys().(*syscall.Stat_t)
			files[i] = file{s.Dev, s.Ino, s.Mtim, s.Size}
		}
	}
	return files
}

// hasChanged tells whether one of the files is another one now. One that is gone, perhaps
// just until the next version is in its place, has not changed.
func (p *program) hasChanged(files []file) bool {
	for i, now := range p.files() {
		if now != files[i] && now != (file{}) {
			return true
		}
	}
	return false
}
