package rabbittest

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestAProxyThatIsCutResetsAndAcceptsAgain(t *testing.T) {
	v := NewVhost(t)
	p := NewProxy(t, v.Node.Addr())
	raw, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	// The node greets a client only after this, so that the link is known to be up.
	if _, err := raw.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	closed := dial(t, v.URLAt(p.Addr)).NotifyClose(make(chan *amqp.Error, 1))
	p.Cut()
	if _, err := io.Copy(io.Discard, raw); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read from a connection that was cut: got error %v, want %v", err, syscall.ECONNRESET)
	}
	if reason := await(t, closed, "close of the connection"); reason == nil {
		t.Error("close of the connection: got an orderly one, want an error")
	}
	if _, err := dial(t, v.URLAt(p.Addr)).Channel(); err != nil {
		t.Errorf("channel on a new connection after the cut: %v", err)
	}
}

func TestAProxyThatRefusesIsNotListening(t *testing.T) {
	v := NewVhost(t)
	p := NewProxy(t, v.Node.Addr())
	p.Refuse()
	if _, err := amqp.Dial(v.URLAt(p.Addr)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connect while refused: got error %v, want %v", err, syscall.ECONNREFUSED)
	}
	p.Restore(t)
	if _, err := dial(t, v.URLAt(p.Addr)).Channel(); err != nil {
		t.Errorf("channel after restoring: %v", err)
	}
}

func TestAProxyThatStallsLosesNothing(t *testing.T) {
	for name, direction := range map[string]Direction{"to the node": ToNode, "from the node": FromNode, "both ways": BothWays} {
		t.Run(name, func(t *testing.T) {
			v := NewVhost(t)
			v.Declare(t, "q", nil)
			p := NewProxy(t, v.Node.Addr())
			ch, err := dial(t, v.URLAt(p.Addr)).Channel()
			if err != nil {
				t.Fatal(err)
			}
			if err := ch.Confirm(false); err != nil {
				t.Fatal(err)
			}
			p.Stall(direction)
			var last *amqp.DeferredConfirmation
			for i := range 20 {
				if last, err = ch.PublishWithDeferredConfirm("", "q", true, false, numbered(i)); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := last.WaitContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("confirm through a stalled proxy: got error %v, want none in time", err)
			}
			if direction == FromNode {
				Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "q") == 20 }, "what was published has reached the node")
			} else if got := v.Ready(t, "q"); got != 0 {
				t.Errorf("messages that passed the stalled proxy: got %d, want 0", got)
			}
			p.Restore(t)
			await(t, last.Done(), "confirm after restoring")
			checkNumbered(t, v.Drain(t, "q"), 20)
		})
	}
}

func TestCuttingUnderLoadLeavesNothingRunning(t *testing.T) {
	sink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := sink.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}()
	p := NewProxy(t, sink.Addr().String())
	for _, fault := range []func(){p.Cut, func() { p.Stall(BothWays); p.Cut(); p.Restore(t) }, func() { p.Refuse(); p.Restore(t) }} {
		conn, err := net.Dial("tcp", p.Addr)
		if err != nil {
			t.Fatal(err)
		}
		flowing, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			block := make([]byte, 64<<10)
			for i := 0; ; i++ {
				if _, err := conn.Write(block); err != nil {
					return
				}
				if i == 100 {
					close(flowing)
				}
			}
		}()
		await(t, flowing, "load")
		fault()
		await(t, ended, "end of the connection")
		_ = conn.Close()
	}
	p.Refuse()
	p.links.Wait()
	_ = sink.Close()
	await(t, served, "end of the sink")
}

func TestASlowProxyDelays(t *testing.T) {
	v := NewVhost(t)
	p := NewProxy(t, v.Node.Addr())
	ch, err := dial(t, v.URLAt(p.Addr)).Channel()
	if err != nil {
		t.Fatal(err)
	}
	const delay = 100 * time.Millisecond
	ask := func() time.Duration {
		began := time.Now()
		if err := ch.Qos(1, 0, false); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	p.Slow(delay)
	if took := ask(); took < 2*delay {
		t.Errorf("a question and its answer took %v, want %v at least", took, 2*delay)
	}
	p.Restore(t)
	ask() // what was on its way when that ended
	Eventually(t, 5*time.Second, func() bool { return ask() < delay }, "it is as fast as before")
}
