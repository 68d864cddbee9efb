package mail

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestManyMailsOverFewConnections(t *testing.T) {
	const mails, workers = 10_000, 8
	s := newServer(t, false, nil, false)
	p := newSender(t, Config{SMTPURL: plainURL(s)})
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < mails; i += workers {
				err := send(t.Context(), p, fmt.Sprint(i), hello)
				if err != nil {
					t.Errorf("mail %d: got error %v, want none", i, err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	for _, m := range s.received() {
		id, _, _ := strings.Cut(string(m.content[strings.Index(string(m.content), "Message-ID:"):]), "\r\n")
		seen[id]++
	}
	if got := len(s.received()); got != mails || len(seen) != mails {
		t.Errorf("the server got %d mails, %d different, want %d of each", got, len(seen), mails)
	}
	if got := s.sessionCount(); got > workers {
		t.Errorf("%d connections were made, want at most %d", got, workers)
	}
}

// A kept connection that the server has given up in any way is replaced, and the
// attempt succeeds.
func TestDeadKeptConnectionIsReplaced(t *testing.T) {
	for _, test := range []struct {
		name    string
		idleFor time.Duration
		fault   fault
	}{
		{"dropped at MAIL", 0, always(drop, "MAIL")},
		{"421 at MAIL", 0, always("421 4.4.2 too many mails in this session", "MAIL")},
		{"dropped at the check", checkAfter, always(drop, "NOOP")},
		{"421 at the check", checkAfter, always("421 4.4.2 idle for too long", "NOOP")},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t, false, nil, false)
			p := newSender(t, Config{SMTPURL: plainURL(s)})
			send := func(id string) {
				t.Helper()
				if err := send(t.Context(), p, id, hello); err != nil {
					t.Errorf("mail %s: got error %v, want none", id, err)
				}
			}
			send("1")
			kept := p.transport.(*pool).idle[0]
			kept.since = kept.since.Add(-test.idleFor)
			s.setFault(func(n int, command string) string {
				if n > 1 {
					return ""
				}
				return test.fault(n, command)
			})
			send("2")
			send("3")
			if got := len(s.received()); got != 3 {
				t.Errorf("the server got %d mails, want 3", got)
			}
			if got := s.sessionCount(); got != 2 {
				t.Errorf("%d connections were made, want 2", got)
			}
		})
	}
}

func TestConnectionThatWasIdleForLongIsCheckedAndReused(t *testing.T) {
	s := newServer(t, false, nil, false)
	var checks atomic.Int32
	s.setFault(func(_ int, command string) string {
		if command == "NOOP" {
			checks.Add(1)
		}
		return ""
	})
	p := newSender(t, Config{SMTPURL: plainURL(s)})
	for id := range 2 {
		if err := send(t.Context(), p, fmt.Sprint(id), hello); err != nil {
			t.Fatal(err)
		}
		kept := p.transport.(*pool).idle[0]
		kept.since = kept.since.Add(-checkAfter)
	}
	if got := s.sessionCount(); got != 1 || checks.Load() != 1 {
		t.Errorf("%d connections were made and %d checks, want 1 of each", got, checks.Load())
	}
}

// A reply to a kept connection that is about the mail is not tried again at once.
func TestRefusalOnKeptConnection(t *testing.T) {
	s := newServer(t, false, nil, false)
	p := newSender(t, Config{SMTPURL: plainURL(s)})
	if err := send(t.Context(), p, "1", hello); err != nil {
		t.Fatal(err)
	}
	s.setFault(always("550 5.1.8 no such sender", "MAIL"))
	err := send(t.Context(), p, "2", hello)
	checkVerdict(t, err, "dead", "MAIL FROM", "no such sender")
	if got := s.sessionCount(); got != 1 {
		t.Errorf("%d connections were made, want 1", got)
	}
}

// quits returns a channel that gets a value for each QUIT that s sees.
func quits(s *server) <-chan struct{} {
	seen := make(chan struct{}, 100)
	s.setFault(func(_ int, command string) string {
		if command == "QUIT" {
			seen <- struct{}{}
		}
		return ""
	})
	return seen
}

func wait(t *testing.T, seen <-chan struct{}) {
	t.Helper()
	select {
	case <-seen:
	case <-time.After(time.Minute):
		t.Fatal("got no QUIT in 10s, want one")
	}
}

func TestIdleConnectionIsDropped(t *testing.T) {
	s := newServer(t, false, nil, false)
	seen := quits(s)
	p := newSender(t, Config{SMTPURL: plainURL(s)})
	p.transport.(*pool).dropAfter = time.Millisecond
	for id := range 3 {
		if err := send(t.Context(), p, fmt.Sprint(id), hello); err != nil {
			t.Fatal(err)
		}
		wait(t, seen)
	}
	if got := s.sessionCount(); got != 3 {
		t.Errorf("%d connections were made, want 3: each was dropped when idle", got)
	}
}

func TestCloseEndsKeptConnections(t *testing.T) {
	s := newServer(t, false, nil, false)
	seen := quits(s)
	p := newSender(t, Config{SMTPURL: plainURL(s)})
	if err := send(t.Context(), p, "1", hello); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("close: got error %v, want none", err)
	}
	wait(t, seen)
}
