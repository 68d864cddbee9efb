// Package freeport finds ports for the servers of tests.
package freeport

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// The ports lie below those that the kernel gives to outgoing connections: one of these may
// have it before the server has, or when a stopped server comes back to it.
const lowest, highest = 15_000, 32_000

var (
	mu   sync.Mutex
	mine []net.Listener // kept from the collector, which would close them
)

// Port returns a port of 127.0.0.1 on which nobody listens. No other call returns it as long
// as this process runs, not even in another: a server has its port some seconds later only,
// and leaves it while it is started anew.
func Port() (int, error) {
	for range 100 {
		offset, err := rand.Int(rand.Reader, big.NewInt(highest-lowest))
		if err != nil {
			return 0, err
		}
		port := lowest + int(offset.Int64())
		// A socket by that name says whose it is; the kernel removes it with the process.
		taken, err := net.Listen("unix", fmt.Sprintf("@warren-freeport-%d", port))
		if err != nil {
			continue
		}
		mu.Lock()
		mine = append(mine, taken)
		mu.Unlock()
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port from %d to %d on 127.0.0.1; see ss -ltn for who has them", lowest, highest)
}

// Listen listens on an address on which this process has listened before. A program that is
// being started has all that this process had open until it runs, and so the listener that
// is closed here already: it waits for that, a minute at most.
func Listen(addr string) (net.Listener, error) {
	late := time.Now().Add(time.Minute)
	for {
		l, err := net.Listen("tcp", addr)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(late) {
			return l, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}
