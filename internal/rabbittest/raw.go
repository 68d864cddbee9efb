package rabbittest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrRawReturned and ErrRawNacked are why a message is not in a queue although the
// broker could read it.
var (
	ErrRawReturned = errors.New("returned: no queue for it")
	ErrRawNacked   = errors.New("nacked: a queue has refused it")
)

// A Raw is a connection with one channel on which the caller encodes properties and
// headers, so that what is sent may be anything, also what libraries refuse to send or
// to read. It is for one goroutine. After an error of type *amqp.Error the broker has
// closed the channel or the connection, and the Raw is of no further use.
type Raw struct {
	conn     net.Conn
	r        *bufio.Reader
	frameMax int
	tag      uint64 // of the last publish
}

// A RawMessage is a message as it was on the wire.
type RawMessage struct {
	// Exchange and Key are what it was published with.
	Exchange, Key string
	// Properties are the flags and the properties, as [RawProperties] encodes them.
	Properties []byte
	Body       []byte
}

// ID is the message's id; empty if it has none.
func (m RawMessage) ID() string {
	flags, rest := binary.BigEndian.Uint16(m.Properties), m.Properties[2:]
	// What comes before it: the content type and encoding, headers, the delivery mode,
	// the priority, the correlation id, reply-to and the expiration.
	for i, kind := range "ssTbbsss" {
		switch {
		case flags&(1<<(15-i)) == 0:
		case kind == 's':
			_, rest = cutShortString(rest)
		case kind == 'T':
			rest = rest[4+binary.BigEndian.Uint32(rest):]
		default:
			rest = rest[1:]
		}
	}
	if flags&(1<<(15-8)) == 0 {
		return ""
	}
	id, _ := cutShortString(rest)
	return id
}

// RawPublish publishes a message with encoded properties (see [RawProperties]) and
// blocks until the broker has confirmed that a queue has it; anything else fails the
// test.
func RawPublish(t testing.TB, url, exchange, key string, properties, body []byte) {
	t.Helper()
	r := DialRaw(t, url)
	defer r.Close()
	if err := r.Publish(exchange, key, properties, body); err != nil {
		t.Fatalf("publish to exchange %q with key %q: %v", exchange, key, err)
	}
}

// RawTake takes the first message of a queue and acknowledges it; without one the test
// fails.
func RawTake(t testing.TB, url, queue string) RawMessage {
	t.Helper()
	r := DialRaw(t, url)
	defer r.Close()
	m, ok, err := r.Get(queue)
	if err != nil || !ok {
		t.Fatalf("take from queue %s: got a message %t and error %v, want true and nil", queue, ok, err)
	}
	return m
}

// DialRaw connects; the end of the test closes what is still open.
func DialRaw(t testing.TB, url string) *Raw {
	t.Helper()
	r, err := OpenRaw(url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(r.Close)
	return r
}

// The methods of AMQP 0-9-1 that are needed: class and method.
const (
	connectionStart   = 10<<16 | 10
	connectionStartOK = 10<<16 | 11
	connectionTune    = 10<<16 | 30
	connectionTuneOK  = 10<<16 | 31
	connectionOpen    = 10<<16 | 40
	connectionOpenOK  = 10<<16 | 41
	connectionClose   = 10<<16 | 50
	channelOpen       = 20<<16 | 10
	channelOpenOK     = 20<<16 | 11
	channelClose      = 20<<16 | 40
	basicPublish      = 60<<16 | 40
	basicReturn       = 60<<16 | 50
	basicGet          = 60<<16 | 70
	basicGetOK        = 60<<16 | 71
	basicGetEmpty     = 60<<16 | 72
	basicAck          = 60<<16 | 80
	basicNack         = 60<<16 | 120
	confirmSelect     = 85<<16 | 10
	confirmSelectOK   = 85<<16 | 11
)

// The kinds of frames.
const (
	methodFrame = 1
	headerFrame = 2
	bodyFrame   = 3
	frameEnd    = 0xCE
)

// OpenRaw connects; the caller closes what it returns.
func OpenRaw(url string) (*Raw, error) {
	uri, err := amqp.ParseURI(url)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)), patience)
	if err != nil {
		return nil, err
	}
	r := &Raw{conn: conn, r: bufio.NewReader(conn)}
	if err := r.open(uri); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Raw) open(uri amqp.URI) error {
	if _, err := r.conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	if _, err := r.expect(connectionStart); err != nil {
		return err
	}
	none := RawTable()
	startOK := append(none, shortString("PLAIN")...)
	startOK = append(startOK, longString("\x00"+uri.Username+"\x00"+uri.Password)...)
	startOK = append(startOK, shortString("en_US")...)
	if err := r.call(0, connectionStartOK, startOK); err != nil {
		return err
	}
	tune, err := r.expect(connectionTune)
	if err != nil {
		return err
	}
	if len(tune) < 8 {
		return errors.New("connection.tune is cut short")
	}
	r.frameMax = int(binary.BigEndian.Uint32(tune[2:]))
	tuneOK := append(tune[:6:6], 0, 0) // without heartbeats
	if err := r.call(0, connectionTuneOK, tuneOK); err != nil {
		return err
	}
	if err := r.call(0, connectionOpen, append(shortString(uri.Vhost), 0, 0)); err != nil {
		return err
	}
	if _, err := r.expect(connectionOpenOK); err != nil {
		return err
	}
	if err := r.call(1, channelOpen, []byte{0}); err != nil {
		return err
	}
	if _, err := r.expect(channelOpenOK); err != nil {
		return err
	}
	if err := r.call(1, confirmSelect, []byte{0}); err != nil {
		return err
	}
	_, err = r.expect(confirmSelectOK)
	return err
}

// FrameMax is how long a frame may be in which the broker takes properties, with the 8
// bytes around its payload.
func (r *Raw) FrameMax() int { return r.frameMax }

// Close closes the connection without a word.
func (r *Raw) Close() { _ = r.conn.Close() }

// Publish publishes a message, mandatory, and blocks until the broker has confirmed it.
// The error is [ErrRawReturned], [ErrRawNacked], or, as *amqp.Error, that with which the
// broker closes the channel or the connection.
func (r *Raw) Publish(exchange, key string, properties, body []byte) error {
	r.tag++
	method := append([]byte{0, 0}, shortString(exchange)...)
	method = append(method, shortString(key)...)
	method = append(method, 1) // mandatory
	if err := r.call(1, basicPublish, method); err != nil {
		return r.reason(err)
	}
	header := []byte{0, 60, 0, 0}
	header = binary.BigEndian.AppendUint64(header, uint64(len(body)))
	if err := r.frame(headerFrame, 1, append(header, properties...)); err != nil {
		return r.reason(err)
	}
	for most := r.frameMax - 8; len(body) > 0; body = body[min(most, len(body)):] {
		if err := r.frame(bodyFrame, 1, body[:min(most, len(body))]); err != nil {
			return r.reason(err)
		}
	}
	returned := false
	for {
		method, _, err := r.method()
		switch {
		case err != nil:
			return err
		case method == basicReturn:
			if _, _, err := r.content(); err != nil {
				return err
			}
			returned = true
		case method == basicAck && returned:
			return ErrRawReturned
		case method == basicAck:
			return nil
		case method == basicNack:
			return ErrRawNacked
		}
	}
}

// Get takes the first message of a queue, if there is one, and acknowledges it.
func (r *Raw) Get(queue string) (m RawMessage, ok bool, err error) {
	if err := r.call(1, basicGet, append(append([]byte{0, 0}, shortString(queue)...), 0)); err != nil {
		return m, false, r.reason(err)
	}
	for {
		method, args, err := r.method()
		switch {
		case err != nil:
			return m, false, err
		case method == basicGetEmpty:
			return m, false, nil
		case method == basicGetOK:
			// Its tag, redelivered, exchange, key and how many are left.
			tag, rest := args[:8], args[9:]
			m.Exchange, rest = cutShortString(rest)
			m.Key, _ = cutShortString(rest)
			if m.Properties, m.Body, err = r.content(); err != nil {
				return m, false, err
			}
			return m, true, r.call(1, basicAck, append(tag[:8:8], 0))
		}
	}
}

// call sends a method.
func (r *Raw) call(channel uint16, method uint32, args []byte) error {
	return r.frame(methodFrame, channel, append(binary.BigEndian.AppendUint32(nil, method), args...))
}

func (r *Raw) frame(kind byte, channel uint16, payload []byte) error {
	_ = r.conn.SetDeadline(time.Now().Add(patience))
	frame := binary.BigEndian.AppendUint16([]byte{kind}, channel)
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(payload)))
	_, err := r.conn.Write(append(append(frame, payload...), frameEnd))
	return err
}

// next reads a frame.
func (r *Raw) next() (kind byte, payload []byte, err error) {
	_ = r.conn.SetDeadline(time.Now().Add(patience))
	var head [7]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, binary.BigEndian.Uint32(head[3:])+1)
	if _, err := io.ReadFull(r.r, payload); err != nil {
		return 0, nil, err
	}
	return head[0], payload[:len(payload)-1], nil
}

// method reads a method. One that closes the channel or the connection is an error.
func (r *Raw) method() (method uint32, args []byte, err error) {
	for {
		kind, payload, err := r.next()
		if err != nil {
			return 0, nil, err
		}
		if kind != methodFrame || len(payload) < 4 {
			continue // a heartbeat
		}
		method, args = binary.BigEndian.Uint32(payload), payload[4:]
		if method == connectionClose || method == channelClose {
			text, _ := cutShortString(args[2:])
			return 0, nil, &amqp.Error{Code: int(binary.BigEndian.Uint16(args)), Reason: text, Server: true}
		}
		return method, args, nil
	}
}

func (r *Raw) expect(want uint32) ([]byte, error) {
	method, args, err := r.method()
	if err == nil && method != want {
		err = fmt.Errorf("the broker answered with method %d of class %d, want %d of %d", method&0xffff, method>>16, want&0xffff, want>>16)
	}
	return args, err
}

// content reads properties and body.
func (r *Raw) content() (properties, body []byte, err error) {
	_, header, err := r.next()
	if err != nil {
		return nil, nil, err
	}
	for size := binary.BigEndian.Uint64(header[4:]); uint64(len(body)) < size; {
		_, part, err := r.next()
		if err != nil {
			return nil, nil, err
		}
		body = append(body, part...)
	}
	return header[12:], body, nil
}

// reason is why a write failed: what the broker had said before it closed the
// connection, if it did.
func (r *Raw) reason(err error) error {
	for {
		_, _, said := r.method()
		if _, ok := errors.AsType[*amqp.Error](said); ok {
			return said
		}
		if said != nil {
			return err
		}
	}
}
