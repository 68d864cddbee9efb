package rabbittest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main is the TestMain of a package that tests against RabbitMQ. It runs the
// tests, ends the node if one of them has started it, fails if a goroutine is left
// running, and exits.
func Main(m *testing.M) {
	shared.mu.Lock()
	shared.ready = true
	shared.mu.Unlock()
	code := m.Run()
	if err := shared.end(); err != nil {
		fmt.Fprintln(os.Stderr, "rabbittest:", err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "rabbittest: goroutines are left running:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// shared is the node of the test package.
var shared sharedNode

type sharedNode struct {
	mu    sync.Mutex
	ready bool // Main is running
	node  *Node
	err   error // of the only attempt to start it
	leash *leash
	took  time.Duration // to start
}

// usualStart is how long a node takes to start on two cores that nobody else uses.
const usualStart = 8 * time.Second

// Slowness is how many times as long as usual this machine takes, today.
func Slowness() float64 { return shared.slowness() }

// slowness is how many times as long as usual this machine takes, today: 1 at least, and
// as long as no node has been started.
func (s *sharedNode) slowness() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(1, s.took.Seconds()/usualStart.Seconds())
}

// get returns the node, and starts it if it is the first to ask.
func (s *sharedNode) get() (*Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready {
		panic("rabbittest: the package needs func TestMain(m *testing.M) { rabbittest.Main(m) }")
	}
	if s.node == nil && s.err == nil {
		began := time.Now()
		s.node, s.err = s.start()
		s.took = time.Since(began)
	}
	return s.node, s.err
}

func (s *sharedNode) start() (*Node, error) {
	dir, err := os.MkdirTemp("", "rabbittest-")
	if err != nil {
		return nil, err
	}
	if s.leash, err = startLeash(dir); err != nil {
		return nil, err
	}
	return Start(context.Background(), Options{Dir: dir, TLS: true})
}

func (s *sharedNode) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node != nil {
		s.node.Kill() // nothing of it is kept, so no time is spent on order
	}
	if s.leash != nil {
		return s.leash.release()
	}
	return nil
}

// A leash is a process that waits for the end of this one, whatever ends it, to
// remove the folder of the node, which can be large.
type leash struct {
	cmd   *exec.Cmd
	stdin io.Closer // closed by the kernel at the latest
}

func startLeash(dir string) (*leash, error) {
	// The node is being killed at the same time, and may still write a file.
	const wait = `cat; for i in 1 2 3 4 5 6 7 8 9; do rm -rf -- "$1" && exit; sleep 0.2; done; exit 1`
	cmd := exec.Command("/bin/sh", "-c", wait, "rabbittest", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is not for it
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &leash{cmd, stdin}, nil
}

// release removes the folder and blocks until that is done.
func (l *leash) release() error {
	_ = l.stdin.Close()
	if err := l.cmd.Wait(); err != nil {
		return fmt.Errorf("remove the folder %s of the node: %w", l.cmd.Args[len(l.cmd.Args)-1], err)
	}
	return nil
}
