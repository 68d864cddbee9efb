package freeport

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestAPortIsFreeAndStaysOutOfTheKernelsWay(t *testing.T) {
	port, err := Port()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Fatal(err)
	}
	first, err := strconv.Atoi(strings.Fields(string(text))[0])
	if err != nil || port >= first {
		t.Errorf("port: got %d, want one below %d, the first of outgoing connections (error %v)", port, first, err)
	}
}

func TestAPortIsGivenOnce(t *testing.T) {
	const n = 500 // of 17,000: two would be the same, but for one time in a thousand
	given := make(map[int]bool)
	for range n {
		port, err := Port()
		if err != nil {
			t.Fatal(err)
		}
		given[port] = true
	}
	if len(given) != n {
		t.Errorf("ports: got %d different ones, want %d", len(given), n)
	}
}

// Listen waits for whoever has the old listener in hand.
func TestListenAgain(t *testing.T) {
	port, err := Port()
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	before, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	inHand, err := before.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	_ = before.Close()
	if l, err := net.Listen("tcp", addr); err == nil {
		_ = l.Close()
		t.Fatal("nobody has the old one in hand")
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = inHand.Close() })
	again, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}
