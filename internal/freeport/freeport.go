// Package freeport finds ports for the servers of tests.
package freeport

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"net"
	"strconv"
)

// The ports lie below those that the kernel gives to outgoing connections: one of these may
// have it before the server has, or when a stopped server comes back to it.
const lowest, highest = 15_000, 32_000

// Port returns a port of 127.0.0.1 on which nobody listens.
func Port() (int, error) {
	for range 100 {
		offset, err := rand.Int(rand.Reader, big.NewInt(highest-lowest))
		if err != nil {
			return 0, err
		}
		port := lowest + int(offset.Int64())
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port from %d to %d on 127.0.0.1; see ss -ltn for who has them", lowest, highest)
}
