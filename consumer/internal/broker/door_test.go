package broker

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/pulse"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// frameOf encodes a frame on channel 1.
func frameOf(kind byte, payload []byte) []byte {
	f := binary.BigEndian.AppendUint32([]byte{kind, 0, 1}, uint32(len(payload)))
	return append(append(f, payload...), frameEnd)
}

// headerOf encodes the frame of a message without a body with the given properties, as
// [rabbittest.RawProperties] encodes them.
func headerOf(properties []byte) []byte {
	return frameOf(frameHeader, append([]byte{0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, properties...))
}

// propertiesWith encodes properties with the given bytes as headers.
func propertiesWith(headers []byte) []byte {
	return rabbittest.RawProperties(map[string]any{
		"content-type": "text/plain", "content-encoding": "", "headers": headers, "priority": byte(3), "message-id": "m", "timestamp": uint64(7), "app-id": "a",
	})
}

// through returns what a door of that frame size makes of what is read, and its error.
func through(r io.Reader, frameMax int64) ([]byte, error) {
	d := newDoor(readConn{Reader: r})
	d.frameMax.Store(frameMax)
	return io.ReadAll(d)
}

// A readConn is a connection from which can only be read.
type readConn struct {
	net.Conn
	io.Reader
}

func (c readConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

var errRefused = errors.New("the library closes the connection")

// readByLibrary returns what the AMQP library makes of a message without a body whose
// frame of properties is the given one; errRefused if it does not read it.
func readByLibrary(t testing.TB, header []byte, behindDoor bool) (amqp.Delivery, error) {
	t.Helper()
	c, end := openToServe(t, header, behindDoor)
	defer end()
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume("q", "c", true, false, false, false, nil)
	if err != nil {
		return amqp.Delivery{}, errRefused // in the instant of the answer
	}
	d, ok := <-deliveries
	if !ok {
		return d, errRefused
	}
	d.Acknowledger = nil
	return d, nil
}

// openToServe connects to a node that is [serve].
func openToServe(t testing.TB, header []byte, behindDoor bool) (c *amqp.Connection, end func()) {
	t.Helper()
	client, server := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() { _ = server.Close() }()
		serve(server, served{header: header})
	}()
	conn := client
	if behindDoor {
		conn = newDoor(client)
	}
	c, err := amqp.Open(conn, amqp.Config{SASL: []amqp.Authentication{&amqp.PlainAuth{}}, Vhost: "/", Locale: "en_US", FrameSize: -1})
	if err != nil {
		t.Fatal(err)
	}
	return c, func() {
		_ = c.CloseDeadline(time.Now())
		<-ended
	}
}

// A served connection is one to a node that is [serve].
type served struct {
	header []byte // of its only message
	// takes tells whether it confirms a message for that queue; nil: it does.
	takes func(channel byte, queue string) bool
	stuck bool // no channel is ever closed
}

// methodOf encodes the frame of a method.
func methodOf(channel byte, class, method uint16, args ...byte) []byte {
	payload := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, class), method)
	f := frameOf(frameMethod, append(payload, args...))
	f[2] = channel
	return f
}

// confirmOf encodes the confirm of a channel's message of that number.
func confirmOf(channel, number byte) []byte {
	return methodOf(channel, 60, 80, 0, 0, 0, 0, 0, 0, 0, number, 0)
}

// serve serves one connection.
func serve(conn net.Conn, s served) {
	r := bufio.NewReader(conn)
	var preamble [8]byte
	if _, err := io.ReadFull(r, preamble[:]); err != nil {
		return
	}
	published := make(map[byte]byte) // by channel, how many
	answer := methodOf(0, 10, 10, []byte("\x00\x09\x00\x00\x00\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US")...)
	for {
		if _, err := conn.Write(answer); err != nil {
			return
		}
		answer = nil
		var head [frameHeadBytes]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
		if _, err := io.ReadFull(r, payload); err != nil {
			return
		}
		if head[0] != frameMethod {
			continue
		}
		channel := head[2]
		switch binary.BigEndian.Uint32(payload) {
		case 10<<16 | 11: // start-ok: tune, without a limit of frames and without heartbeats
			answer = methodOf(0, 10, 30, 0, 16, 0, 0, 0, 0, 0, 0)
		case 10<<16 | 40: // open
			answer = methodOf(0, 10, 41, 0)
		case 10<<16 | 50: // close
			answer = methodOf(0, 10, 51)
		case 20<<16 | 10: // channel.open
			answer = methodOf(channel, 20, 11, 0, 0, 0, 0)
		case 20<<16 | 40: // channel.close
			if !s.stuck {
				answer = methodOf(channel, 20, 41)
			}
		case 60<<16 | 20: // consume
			answer = methodOf(channel, 60, 21, 1, 'c')
			answer = append(answer, methodOf(channel, 60, 60, 1, 'c', 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 'q')...)
			answer = append(answer, s.header...)
			// What a header frame lacks the library takes from here: enough of it.
			answer = append(answer, bytes.Repeat([]byte{frameHeartbeat, 0, 0, 0, 0, 0, 0, frameEnd}, 512)...)
		case 60<<16 | 10: // qos
			answer = methodOf(channel, 60, 11)
		case 60<<16 | 30: // cancel: of a queue that is deleted in that moment
			answer = bytes.Repeat(methodOf(channel, 60, 31, payload[4:5+payload[4]]...), 2)
		case 85<<16 | 10: // confirm.select
			answer = methodOf(channel, 85, 11)
		case 60<<16 | 40: // publish
			published[channel]++
			exchange := payload[6:]
			queue := exchange[1+exchange[0]:]
			if s.takes == nil || s.takes(channel, string(queue[1:1+queue[0]])) {
				answer = confirmOf(channel, published[channel])
			}
		}
	}
}

// TestDoorKeepsOutWhatTheLibraryRefuses has the library itself say what it refuses.
func TestDoorKeepsOutWhatTheLibraryRefuses(t *testing.T) {
	field := func(value ...byte) []byte { return rabbittest.RawTable(rabbittest.RawField("h", value)) }
	array := rabbittest.RawArray()
	for range 31 {
		array = rabbittest.RawArray(array)
	}
	for name, c := range map[string]struct {
		headers []byte
		want    string // what is said of it; empty: it passes
	}{
		"empty":             {rabbittest.RawTable(), ""},
		"32 tables deep":    {rabbittest.RawDeep(32), ""},
		"33 tables deep":    {rabbittest.RawDeep(33), "they are nested more than 32 deep"},
		"200 tables deep":   {rabbittest.RawDeep(200), "they are nested more than 32 deep"},
		"32 arrays deep":    {rabbittest.RawTable(rabbittest.RawField("h", array)), ""},
		"33 arrays deep":    {rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawArray(array))), "they are nested more than 32 deep"},
		"8192 fields":       {rabbittest.RawWide(8192), ""},
		"8193 fields":       {rabbittest.RawWide(8193), "a table or an array has more than 8192 elements"},
		"8192 values":       {rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawLong(8192))), ""},
		"8193 values":       {rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawLong(8193))), "a table or an array has more than 8192 elements"},
		"8193 nested":       {rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawNested(rabbittest.RawWide(8193)))), "more than 8192 elements"},
		"large":             {rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawString(strings.Repeat("x", 130_000)))), ""},
		"unknown type":      {field('Z', 1), "one has the unknown type 'Z'"},
		"value cut short":   {field('l', 1, 2), "they are cut short"},
		"string cut short":  {field('S', 0, 0, 1, 0), "they are cut short"},
		"negative length":   {field('x', 0xff, 0xff, 0xff, 0xff), "they are cut short"},
		"name cut short":    {[]byte{0, 0, 0, 2, 200, 'x'}, "they are cut short"},
		"longer than frame": {[]byte{0, 1, 0, 0, 1, 'h', 't', 1}, "they are cut short"},
		"every type": {rabbittest.RawTable(
			rabbittest.RawField("", []byte{'V'}), rabbittest.RawField("t", []byte{'t', 9}), rabbittest.RawField("B", []byte{'B', 9}), rabbittest.RawField("b", []byte{'b', 9}),
			rabbittest.RawField("s", []byte{'s', 9, 9}), rabbittest.RawField("u", []byte{'u', 9, 9}), rabbittest.RawField("I", []byte{'I', 9, 9, 9, 9}),
			rabbittest.RawField("i", []byte{'i', 9, 9, 9, 9}), rabbittest.RawField("f", []byte{'f', 9, 9, 9, 9}), rabbittest.RawField("D", []byte{'D', 9, 9, 9, 9, 9}),
			rabbittest.RawField("l", []byte{'l', 9, 9, 9, 9, 9, 9, 9, 9}), rabbittest.RawField("d", []byte{'d', 9, 9, 9, 9, 9, 9, 9, 9}),
			rabbittest.RawField("T", []byte{'T', 9, 9, 9, 9, 9, 9, 9, 9}), rabbittest.RawField("x", []byte{'x', 0, 0, 0, 1, 0xff}),
			rabbittest.RawField("S", rabbittest.RawString("\xff\x00"))), ""},
	} {
		t.Run(name, func(t *testing.T) {
			header := headerOf(propertiesWith(c.headers))
			alone, refused := readByLibrary(t, header, false)
			if (refused != nil) != (c.want != "") {
				t.Errorf("by itself, the library says %v", refused)
			}
			got, err := readByLibrary(t, header, true)
			if err != nil {
				t.Fatal(err)
			}
			if refused == nil && !reflect.DeepEqual(got, alone) {
				t.Errorf("got %+v, want %+v", got, alone)
			}
			said, _ := got.Headers[HeaderUnreadable].(string)
			if !strings.Contains(said, c.want) || (said == "") != (c.want == "") {
				t.Errorf("it is said to be unreadable because %q, want %q", said, c.want)
			}
			if raw, _ := got.Headers[HeaderRaw].([]byte); c.want != "" && !bytes.Contains(header, raw) || c.want != "" && len(raw) == 0 {
				t.Errorf("the raw headers are %d bytes, want some of the %d", len(raw), len(header))
			}
			if got.ContentType != "text/plain" || name != "longer than frame" && (got.MessageId != "m" || got.Priority != 3 || got.AppId != "a") {
				t.Errorf("other properties are lost: %+v", got)
			}
		})
	}
}

// TestDoorMindsTheFrameSize has the broker add to headers what makes them too long, and
// raw headers that do not fit beside the words about them.
func TestDoorMindsTheFrameSize(t *testing.T) {
	const frameMax = 8192
	for name, c := range map[string]struct {
		headers []byte
		raw     bool
	}{
		"too long":             {rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawString(strings.Repeat("x", frameMax)))), false},
		"no room for them":     {rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawString(strings.Repeat("x", frameMax-120))), rabbittest.RawField("d", []byte{'Z'})), false},
		"just room for them":   {rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawString(strings.Repeat("x", frameMax-300))), rabbittest.RawField("d", []byte{'Z'})), true},
		"as long as it may be": {nil, false},
	} {
		header := headerOf(propertiesWith(c.headers))
		if c.headers == nil {
			fill := frameMax - len(headerOf(propertiesWith(rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawString(""))))))
			header = headerOf(propertiesWith(rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawString(strings.Repeat("x", fill))))))
		}
		out, err := through(bytes.NewReader(header), frameMax)
		if err != nil || len(out) > frameMax {
			t.Errorf("%s: got %d bytes and %v", name, len(out), err)
		}
		if c.headers == nil {
			if !bytes.Equal(out, header) {
				t.Errorf("%s: it did not pass", name)
			}
			continue
		}
		d, err := readByLibrary(t, out, false)
		if _, said := d.Headers[HeaderUnreadable]; err != nil || !said {
			t.Errorf("%s: got %v and %v", name, d.Headers, err)
		}
		if _, raw := d.Headers[HeaderRaw]; raw != c.raw {
			t.Errorf("%s: got the raw headers %t, want %t", name, raw, c.raw)
		}
	}
}

// TestDoorLeavesOutAnswersThatComeTwice has the library go on after them.
func TestDoorLeavesOutAnswersThatComeTwice(t *testing.T) {
	c, end := openToServe(t, headerOf(propertiesWith(nil)), true)
	defer end()
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.Consume("q", "c", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Cancel("c", false); err != nil {
		t.Fatal(err)
	}
	if err := ch.Qos(1, 0, false); err != nil {
		t.Errorf("what was asked next: %v", err)
	}

	on := func(channel byte, frame []byte) []byte {
		frame[2] = channel
		return frame
	}
	open, ended, other := frameOf(frameMethod, []byte("\x00\x14\x00\x0b\x00\x00\x00\x00")), frameOf(frameMethod, []byte("\x00\x3c\x00\x1f\x01c")), frameOf(frameMethod, []byte("\x00\x3c\x00\x1f\x01d"))
	onTwo := on(2, bytes.Clone(ended))
	for _, test := range []struct {
		name      string
		in, wants [][]byte
	}{
		{"twice", [][]byte{ended, ended, ended}, [][]byte{ended}},
		{"of several consumers", [][]byte{ended, other, ended}, [][]byte{ended, other, ended}},
		{"of several channels", [][]byte{ended, onTwo, ended}, [][]byte{ended, onTwo}},
		{"of a channel with the number of one before", [][]byte{ended, open, ended}, [][]byte{ended, open, ended}},
	} {
		got, err := through(bytes.NewReader(bytes.Join(test.in, nil)), 0)
		if want := bytes.Join(test.wants, nil); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %q and %v, want %q", test.name, got, err, want)
		}
	}
}

// connTo opens a connection to a node that is [serve], and returns it as the node has it, too.
func connTo(t *testing.T, s served) (c *Conn, node net.Conn) {
	t.Helper()
	client, node := net.Pipe()
	go serve(node, s)
	c = &Conn{door: newDoor(client), socket: client, idle: make(chan *confirming, maxIdleChannels), metered: noInstruments}
	var err error
	if c.Connection, err = amqp.Open(c.door, amqp.Config{SASL: []amqp.Authentication{&amqp.PlainAuth{}}, Vhost: "/", Locale: "en_US", FrameSize: -1}); err != nil {
		t.Fatal(err)
	}
	c.closes = c.NotifyClose(make(chan *amqp.Error, 1))
	return c, node
}

// sessionWith makes a session with nodes that are [serve], and returns what it consumes over
// as the node has it.
func sessionWith(t *testing.T) (*Session, net.Conn) {
	t.Helper()
	publish, _ := connTo(t, served{})
	consume, node := connTo(t, served{})
	return &Session{Consume: consume, Publish: publish, Trial: newTrial(Dialer{}, "")}, node
}

// TestASessionThatIsNotReadEnds has the node answer what nobody has asked. The library
// waits for somebody to take the answer, and reads nothing more.
func TestASessionThatIsNotReadEnds(t *testing.T) {
	for _, answers := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			s, node := sessionWith(t)
			if _, err := s.Consume.Channel(); err != nil {
				t.Fatal(err)
			}
			go func() { // without a reader nobody takes it
				_, _ = node.Write(bytes.Repeat(frameOf(frameMethod, []byte("\x00\x3c\x00\x1f\x01c")), answers))
			}()
			ended := make(chan struct{})
			time.AfterFunc(time.Hour, func() { close(ended) })
			start := time.Now()
			_, err := s.Watch(ended, nil, nil, &pulse.Pulse{})
			if answers == 0 && err != nil || answers > 0 && (!errors.Is(err, errUnread) || time.Since(start) > 30*time.Second) {
				t.Errorf("after %d answers to nothing, the session has ended after %v: %v", answers, time.Since(start), err)
			}
			closing := time.Now()
			s.Close()
			if took := time.Since(closing); took > closeTimeout {
				t.Errorf("it was closed after %v", took)
			}
		})
	}
}

// TestAConnectionThatIsNotReadIsClosed closes one that nobody has found out about yet.
func TestAConnectionThatIsNotReadIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, node := sessionWith(t)
		if _, err := s.Consume.Channel(); err != nil {
			t.Fatal(err)
		}
		if _, err := node.Write(frameOf(frameMethod, []byte("\x00\x3c\x00\x1f\x01c"))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		start := time.Now()
		s.Close() // or all are blocked
		if took := time.Since(start); took != closeTimeout {
			t.Errorf("it was closed after %v", took)
		}
	})
}

// TestDoorGivesAFrameItsTime has the node send a frame slower than the library waits for
// one, and then nothing.
func TestDoorGivesAFrameItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		d := newDoor(client)
		if err := d.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		frame := frameOf(frameBody, make([]byte, 60))
		go func() {
			for _, b := range frame {
				time.Sleep(time.Second)
				_, _ = server.Write([]byte{b})
			}
		}()
		if _, err := io.ReadFull(d, make([]byte, len(frame))); err != nil {
			t.Errorf("the slow frame: %v", err)
		}
		start := time.Now()
		if _, err := d.Read(make([]byte, 1)); err == nil || time.Since(start) != 3*time.Second {
			t.Errorf("got %v after %v of silence", err, time.Since(start))
		}
	})
}

// FuzzDoor holds what comes out to be the same in whatever pieces it came in, and all that
// is neither a header nor an answer once more to pass.
func FuzzDoor(f *testing.F) {
	f.Add([]byte("AMQP\x00\x00\x09\x01"), uint16(0))
	f.Add(append(headerOf(propertiesWith(rabbittest.RawDeep(40))), frameOf(frameBody, []byte("body"))...), uint16(200))
	f.Add(append(frameOf(frameMethod, []byte("1234")), headerOf(propertiesWith(rabbittest.RawWide(3)))[:20]...), uint16(4096))
	f.Add(bytes.Repeat(frameOf(frameMethod, []byte("\x00\x3c\x00\x1f\x01c")), 2), uint16(0))
	f.Fuzz(func(t *testing.T, in []byte, frameMax uint16) {
		whole, err := through(bytes.NewReader(in), int64(frameMax))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []io.Reader{iotest.OneByteReader(bytes.NewReader(in)), iotest.HalfReader(bytes.NewReader(in)), iotest.DataErrReader(bytes.NewReader(in))} {
			pieces, err := through(iotest.OneByteReader(r), int64(frameMax))
			if err != nil || !bytes.Equal(pieces, whole) {
				t.Fatalf("got %q and %v in pieces, %q at once", pieces, err, whole)
			}
		}
		if bytes.Count(in, []byte("\x00\x3c\x00\x1f")) < 2 && !bytes.Contains(whole, []byte(HeaderUnreadable)) && !bytes.Equal(whole, in) {
			t.Fatalf("got %q, want %q", whole, in)
		}
	})
}

// FuzzDoorHeaders has the library read, through the door, headers of any bytes. What is
// replaced although the library would have read it must be malformed.
func FuzzDoorHeaders(f *testing.F) {
	for _, table := range [][]byte{
		rabbittest.RawDeep(32), rabbittest.RawDeep(33), rabbittest.RawWide(3), rabbittest.RawTable(rabbittest.RawField("h", rabbittest.RawLong(3))),
		rabbittest.RawTable(rabbittest.RawField("h", []byte{'A', 0, 0, 0, 2, 'I', 0})),
	} {
		f.Add(table[4:], uint8(0))
	}
	f.Fuzz(func(t *testing.T, table []byte, missing uint8) {
		headers := append(binary.BigEndian.AppendUint32(nil, uint32(len(table)+int(missing))), table...)
		frame := headerOf(propertiesWith(headers))
		out, err := through(bytes.NewReader(frame), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readByLibrary(t, frame, true); err != nil {
			t.Errorf("behind the door: %v", err)
		}
		malformed := missing > 0 || errors.Is(checkTable(table, 0), errCutShort)
		if _, err := readByLibrary(t, frame, false); err == nil && !malformed && !bytes.Equal(out, frame) {
			t.Errorf("the library would have read it, the door has made it %q", out)
		}
	})
}

func BenchmarkDoor(b *testing.B) {
	message := frameOf(frameMethod, make([]byte, 50))
	message = append(message, headerOf(propertiesWith(rabbittest.RawTable(rabbittest.RawField("x-delivery-count", rabbittest.RawInt(1)), rabbittest.RawField("type", rabbittest.RawString("order")))))...)
	message = append(message, frameOf(frameBody, make([]byte, 1024))...)
	b.SetBytes(int64(len(message)))
	d := newDoor(readConn{Reader: &endless{text: message}})
	r := bufio.NewReader(d)
	p := make([]byte, len(message))
	for b.Loop() {
		if _, err := io.ReadFull(r, p); err != nil {
			b.Fatal(err)
		}
	}
}

// An endless reader repeats a text.
type endless struct {
	text []byte
	at   int
}

func (e *endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		copied := copy(p[n:], e.text[e.at:])
		n, e.at = n+copied, (e.at+copied)%len(e.text)
	}
	return n, nil
}
