//go:build failpoints

package failpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The variable FAILPOINT names a point and what happens when it is reached: write-wait=kill,
// =delay or =error. That happens once for all processes that have the same FAILPOINT_FILE,
// which does not exist until then.
var (
	point, act, _ = strings.Cut(os.Getenv("FAILPOINT"), "=")
	file          = os.Getenv("FAILPOINT_FILE")
	connections   sync.Map // of io.Closer
)

const delay = 400 * time.Millisecond

// Here is one of the points.
func Here(p Point) {
	if Error(p) != nil {
		cut()
	}
}

// Publishing is that point of the messages with a purpose.
func Publishing(p Point, purpose string) { Here(p + Point("-"+purpose)) }

// Error is one of the points, where a call can fail.
func Error(p Point) error {
	if string(p) != point {
		return nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil // it has happened already
	}
	_ = f.Close()
	fmt.Fprintf(os.Stderr, "failpoint %s: %s\n", point, act)
	switch act {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it has come
	case "delay":
		time.Sleep(delay)
		return nil
	}
	return errors.New("failpoint " + point)
}

// Connected gives a connection to those that are cut when something fails elsewhere.
func Connected(c io.Closer) { connections.Store(c, nil) }

func cut() {
	connections.Range(func(c, _ any) bool {
		_ = c.(io.Closer).Close()
		connections.Delete(c)
		return true
	})
}
