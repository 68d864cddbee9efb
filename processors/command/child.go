package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"sync"
	"time"

	"github.com/warrenmq/warren/consumer"
)

// A child is one process of a pool. Beside its user, two goroutines of os/exec bring what
// the process writes, and one waits for its end; all have ended when gone is closed.
type child struct {
	pid   int
	stdin io.WriteCloser
	files []file // of the program, as it was when the child was started
	given int    // how many deliveries it has been given: the id of the last one
	// kill ends the group: with SIGTERM and, half a second later, SIGKILL; or, with the cause
	// errUseless, with SIGKILL at once.
	kill   context.CancelCauseFunc
	grace  time.Duration
	log    *slog.Logger  // of the queue
	gone   chan struct{} // closed when the group has ended and all output was read
	status string        // how it ended, once gone is closed

	mu     sync.Mutex
	id     int           // guarded by mu, as is all below: of the delivery under way; 0: none
	answer chan<- *reply // has room for the one answer to that
	said   *logLines     // what is logged of that or, if there is none, of the child
	line   []byte        // the beginning of a line of standard output
	fault  error         // what is wrong with what it wrote there
}

// errUseless is the cause for ending a child that is not worth a grace.
var errUseless = errors.New("what it writes cannot be read")

// newChild starts a child.
func (p *pool) newChild() (*child, error) {
	ctx, kill := context.WithCancelCause(context.Background())
	c := &child{files: p.files(), kill: kill, grace: p.killAfter, log: p.log, gone: make(chan struct{})}
	c.said = c.ownLines()
	cmd := &exec.Cmd{
		Path:        p.path,
		Args:        p.args,
		Env:         append([]string{"PATH=" + searchPath}, p.env...), // of two that are equal, os/exec takes the last
		Stdout:      (*childOutput)(c),
		Stderr:      (*childErrors)(c),
		SysProcAttr: p.attributes(),
		WaitDelay:   p.killAfter,
	}
	var exited <-chan struct{}
	var err error
	if c.stdin, err = cmd.StdinPipe(); err == nil {
		exited, err = start(cmd)
	}
	if err != nil {
		kill(nil)
		return nil, err
	}
	c.pid = cmd.Process.Pid
	go func() {
		defer close(c.gone)
		defer kill(nil)
		_, err := p.wait(ctx, cmd, exited) // which closes stdin, too
		c.status = fmt.Sprint(err)
		if cmd.ProcessState != nil {
			c.status = cmd.ProcessState.String()
		}
	}()
	return c, nil
}

// ownLines are for what the child writes while it has no delivery.
func (c *child) ownLines() *logLines {
	return &logLines{log: c.log, progress: func(int, string) {}}
}

// hasEnded tells whether the child has no use any more, and if so waits for its end.
func (c *child) hasEnded() bool {
	c.mu.Lock()
	isFaulty := c.fault != nil
	c.mu.Unlock()
	if isFaulty {
		<-c.gone
	}
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// end has the child end, by itself if it does so when there is nothing more to read.
func (c *child) end() {
	_ = c.stdin.Close()
	timer := time.NewTimer(c.grace)
	defer timer.Stop()
	select {
	case <-c.gone:
	case <-timer.C:
		c.kill(nil)
		<-c.gone
	}
}

// work gives d to the child and waits for its answer, whose verdict err then is. Without
// an answer the child has ended: by itself, for what it wrote, or because ctx has ended.
func (c *child) work(ctx context.Context, d *consumer.Delivery, scope *consumer.Scope) (answered bool, err error) {
	c.given++
	request := newRequest(ctx, c.given, d)
	answers := c.begin(scope)
	spare := context.AfterFunc(ctx, func() { c.kill(nil) })
	written := make(chan struct{})
	go func() {
		defer close(written)
		if err := request.writeTo(c.stdin); err != nil {
			c.end() // it does not read, mostly because it is about to end
		}
	}()

	var answer *reply
	select {
	case answer = <-answers:
	case <-c.gone:
		select {
		case answer = <-answers: // and then it ended
		default:
		}
	}
	<-written // also of what answers without reading all of it: the next line must not follow half of one
	if !spare() {
		<-c.gone
	}
	said, fault := c.finish()
	if answer != nil {
		return true, answer.settle(scope, said)
	}
	ending := "the command ended without an answer: " + c.status
	switch {
	case ctx.Err() != nil && c.given == 1:
		ending = c.status + " before any answer; an answer must be flushed to be seen"
	case ctx.Err() != nil:
		ending = c.status
	case fault != nil:
		ending = fault.Error()
	}
	err = errors.New(said.explain(ending))
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return false, err
}

// begin has what the child writes belong to its last delivery, which is that of scope.
func (c *child) begin(scope *consumer.Scope) <-chan *reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.given > 1 {
		c.said.end()
		c.said = new(logLines)
	} // what it wrote while it started helps to see why it fails at its first delivery
	c.said.log, c.said.progress = scope.Logger(), scope.Progress
	answers := make(chan *reply, 1)
	c.id, c.answer = c.given, answers
	return answers
}

// finish ends that. Scope is not used any more when it has returned.
func (c *child) finish() (said *logLines, fault error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	said = c.said
	said.end()
	c.id, c.said = 0, c.ownLines()
	if c.fault == nil && len(c.line) > 0 {
		return said, notAnAnswer(c.line, errors.New("it has no newline"))
	}
	return said, c.fault
}

// childErrors is a child as the writer of its standard error.
type childErrors child

func (c *childErrors) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Write(b)
}

// childOutput is a child as the writer of its standard output.
type childOutput child

// Write fails at the first thing that is no answer to what the child has been asked, and
// has the child end: of what such a child writes nothing more can be trusted, nor read.
func (c *childOutput) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for rest := b; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		if len(c.line)+len(line) > maxReplyBytes {
			return 0, c.fail(append(c.line, line...), fmt.Errorf("it is longer than %d bytes", maxReplyBytes))
		}
		if !ended {
			c.line = append(c.line, line...)
			break
		}
		if len(c.line) > 0 {
			line = append(c.line, line...)
			c.line = nil
		}
		if err := c.read(line); err != nil {
			return 0, c.fail(line, err)
		}
		rest = after
	}
	return len(b), nil
}

func (c *childOutput) fail(line []byte, err error) error {
	c.line, c.fault = nil, notAnAnswer(line, err)
	c.kill(errUseless)
	return c.fault
}

// read reads one line.
func (c *childOutput) read(line []byte) error {
	r, err := parseReply(line)
	switch {
	case err != nil:
		return err
	case c.id == 0:
		return errors.New("nothing has been asked that is not answered")
	case *r.ID != c.id:
		return fmt.Errorf("the id is %d, but what is asked has the id %d", *r.ID, c.id)
	case r.Log != nil:
		if c.said.mayLog(len(*r.Log)) {
			c.said.log.Log(context.Background(), r.Level, "line of the command's log", "line", *r.Log)
		}
	case r.Progress != nil:
		c.said.progress(int(min(max(*r.Progress, 0), 100)), r.Text)
	default:
		c.id = 0
		c.answer <- r
	}
	return nil
}
