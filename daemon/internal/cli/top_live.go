package cli

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/daemon/internal/legible"
)

// A topScreen is top on a terminal. Small letters move, capital ones act.
type topScreen struct {
	state  *topState
	screen *screen

	chosen   topItem
	at       int // of what is chosen, among what can be
	items    []topItem
	question string                                               // nothing else is heard until it is answered
	act      func(context.Context, *fleet.Client) (string, error) // what a yes does
	said     string                                               // what came of the last act
	answers  chan string
	acting   sync.WaitGroup
}

const topHelp = "q quit  j k choose  C cancel the message  P pause or resume the queue"

// live shows the fleet until q is pressed or ctx ends.
func (t *topCommand) live(ctx context.Context, state *topState, in, out *os.File) error {
	s, err := openScreen(in, out)
	if err != nil {
		return err
	}
	defer s.close()
	reading, stop := context.WithCancel(ctx)
	keys, ended := make(chan byte), make(chan struct{})
	go func() {
		defer close(ended)
		readKeys(reading, in, keys)
	}()
	top := &topScreen{state: state, screen: s, at: -1, answers: make(chan string, 1)}
	defer func() {
		stop()
		<-ended
		top.acting.Wait()
	}()
	ticks := time.NewTicker(topEvery)
	defer ticks.Stop()
	var width, height int
	for {
		if w, h := s.size(); w != width || h != height {
			width, height = w, h
			if err := s.forget(); err != nil {
				return err
			}
		}
		if err := s.show(top.lines(width, height), width, height); err != nil {
			return err
		}
		select {
		case <-ticks.C:
		case top.said = <-top.answers:
		case key := <-keys:
			if !top.press(reading, key) {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// readKeys sends what is pressed, until ctx ends.
func readKeys(ctx context.Context, in *os.File, keys chan<- byte) {
	var b [16]byte
	for ctx.Err() == nil {
		begun := time.Now()
		n, _ := in.Read(b[:]) // nothing within a tenth of a second looks like the end of a file
		if n == 0 && time.Since(begun) < 50*time.Millisecond {
			return // it is one: the terminal is gone
		}
		for _, key := range b[:n] {
			select {
			case keys <- key:
			case <-ctx.Done():
			}
		}
	}
}

// lines are those of the screen, the last one for what may be pressed or has been said.
func (s *topScreen) lines(width, height int) []string {
	f := s.state.frame(time.Now())
	_, items := f.lines(width, height, -1)
	s.items = items
	s.at = min(s.at, len(items)-1)
	if s.at >= 0 && !same(items[s.at], s.chosen) { // it has moved
		for i, item := range items {
			if same(item, s.chosen) {
				s.at = i
			}
		}
		s.chosen = items[s.at]
	}
	lines, _ := f.lines(width, height, s.at)
	lines = lines[:min(len(lines), height-1)]
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	last := topHelp
	switch {
	case s.question != "":
		last = s.question + " [y/N]"
	case s.said != "":
		last = s.said
	}
	return append(lines, fit(last, width))
}

func same(a, b topItem) bool {
	if a.queue != b.queue || (a.attempt == nil) != (b.attempt == nil) {
		return false
	}
	return a.attempt == nil || a.attempt.MessageID == b.attempt.MessageID && a.attempt.Daemon == b.attempt.Daemon
}

// press does what a key stands for. It returns false for the one that ends it all.
func (s *topScreen) press(ctx context.Context, key byte) bool {
	if s.question != "" {
		act := s.act
		s.question, s.act = "", nil
		if key == 'y' || key == 'Y' {
			s.said = "..."
			s.acting.Go(func() {
				client, err := s.state.link.current()
				var text string
				if client != nil {
					text, err = act(ctx, client)
				}
				if err != nil {
					text = err.Error()
				}
				select {
				case s.answers <- legible.Line(text):
				case <-ctx.Done():
				}
			})
		}
		return true
	}
	s.said = ""
	switch key {
	case 'q':
		return false
	case 'j', 'B': // B ends what the arrow down sends
		s.choose(s.at + 1)
	case 'k', 'A':
		s.choose(s.at - 1)
	case 'C':
		s.askCancel()
	case 'P':
		s.askPause()
	}
	return true
}

func (s *topScreen) choose(i int) {
	if s.at = max(0, min(i, len(s.items)-1)); s.at < len(s.items) {
		s.chosen = s.items[s.at]
	}
}

// askCancel asks whether the message that is chosen is to be cancelled.
func (s *topScreen) askCancel() {
	at := s.chosen.attempt
	if at == nil || at.MessageID == "" {
		s.said = "choose a message in flight first, with j and k"
		return
	}
	s.question = fmt.Sprintf("cancel %s on %s, and dead-letter it?", legible.Line(at.MessageID), legible.Line(at.Daemon))
	s.act = func(ctx context.Context, c *fleet.Client) (string, error) {
		r := fleet.Request{Verb: fleet.VerbCancel, MessageID: at.MessageID, Queue: at.Queue, Daemons: []string{at.Daemon}}
		answers, err := c.Ask(ctx, r, 1, 3*time.Second)
		switch {
		case err != nil:
			return "", err
		case len(answers) == 0:
			return at.Daemon + " does not answer", nil
		case answers[0].Error != "":
			return answers[0].Error, nil
		case answers[0].Done == 0:
			return at.MessageID + " is not in flight any more", nil
		}
		return at.MessageID + " is cancelled", nil
	}
}

// askPause asks whether the queue of what is chosen is to be paused, or resumed.
func (s *topScreen) askPause() {
	queue := s.chosen.queue
	if queue == "" {
		s.said = "choose a queue first, with j and k"
		return
	}
	paused := false
	for _, q := range s.state.view.Queues() {
		paused = paused || q.Queue == queue && q.Paused != nil
	}
	if paused {
		s.question = "resume " + legible.Line(queue) + "?"
		s.act = func(ctx context.Context, c *fleet.Client) (string, error) {
			return queue + " is resumed", c.Resume(ctx, queue)
		}
		return
	}
	s.question = "pause " + legible.Line(queue) + " for the whole fleet, until it is resumed?"
	s.act = func(ctx context.Context, c *fleet.Client) (string, error) {
		return queue + " is paused", c.Pause(ctx, queue, "", 0)
	}
}
