package broker

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
)

// A greeter is a node that ends each connection at a step of its beginning: when it has
// got so many answers. What it takes is sent to answered.
type greeter struct {
	net.Listener
	ends     []int // of each connection
	accepted chan struct{}
}

// frame encodes a method of channel 0.
func frame(class, method uint16, args ...byte) []byte {
	payload := binary.BigEndian.AppendUint16(nil, class)
	payload = append(binary.BigEndian.AppendUint16(payload, method), args...)
	f := binary.BigEndian.AppendUint32([]byte{1, 0, 0}, uint32(len(payload)))
	return append(append(f, payload...), 0xCE)
}

func (g greeter) serve() {
	for _, end := range g.ends {
		conn, err := g.Accept()
		if err != nil {
			return
		}
		g.accepted <- struct{}{}
		r := bufio.NewReader(conn)
		_, _ = io.CopyN(io.Discard, r, 8)                                                                                 // its name
		_, _ = conn.Write(frame(10, 10, []byte("\x00\x09\x00\x00\x00\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US")...)) // start
		for answers := 0; answers < end; {
			var head [7]byte
			if _, err := io.ReadFull(r, head[:]); err != nil {
				break
			}
			payload := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
			if _, err := io.ReadFull(r, payload); err != nil {
				break
			}
			if head[0] != 1 {
				continue // a heartbeat
			}
			if answers++; answers == end {
				break
			}
			switch binary.BigEndian.Uint32(payload) {
			case 10<<16 | 11: // start-ok
				_, _ = conn.Write(frame(10, 30, 0, 0, 0, 2, 0, 0, 0, 10)) // tune
			case 10<<16 | 40: // open
				_, _ = conn.Write(frame(10, 41, 0)) // open-ok
			case 10<<16 | 50: // close
				_, _ = conn.Write(frame(10, 51)) // close-ok
			}
		}
		_ = conn.Close()
	}
}

// A connection that is lost while it begins is not one that was refused.
func TestLostWhileLoggingIn(t *testing.T) {
	const startOK, tuneOK, open, never = 1, 2, 3, 1000
	for name, test := range map[string]struct {
		ends    []int
		want    string // of the error; empty: none
		lasting bool
	}{
		"lost once":           {[]int{startOK, never}, "", false},
		"refused":             {[]int{startOK, startOK}, "refused the user name or password", true},
		"lost at the vhost":   {[]int{open}, "the connection was lost while its virtual host was opened", false},
		"lost once, and then": {[]int{startOK, open}, "the connection was lost while its virtual host was opened", false},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			g := greeter{listener, test.ends, make(chan struct{}, len(test.ends))}
			go g.serve()
			c, err := Dialer{}.Dial(t.Context(), "amqp://guest:guest@"+listener.Addr().String()+"/", Options{Purpose: "test"})
			if err == nil {
				c.Close()
			}
			switch {
			case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)), IsLasting(err) != test.lasting:
				t.Errorf("got error %v (lasting: %t), want %q (%t)", err, IsLasting(err), test.want, test.lasting)
			}
			if got := len(g.accepted); got != len(test.ends) {
				t.Errorf("connected %d times, want %d", got, len(test.ends))
			}
		})
	}
}
