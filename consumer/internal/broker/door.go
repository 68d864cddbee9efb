package broker

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync/atomic"
	"time"
)

// A door is a connection to a node as the AMQP library is to read it. All passes as it
// is, but for headers that the library would close the connection for, with all that is
// under way on it: in their place comes [HeaderUnreadable], which says why, and
// [HeaderRaw]. An answer that comes twice is left out: see [door.repeats].
//
// It reads ahead, which saves system calls, and gives a frame the time that it takes as
// long as some of it arrives.
type door struct {
	net.Conn
	ahead *bufio.Reader
	left  int64  // so many bytes pass before the next frame
	held  []byte // goes before what is read next

	cancelled map[uint16]string // the consumer of each channel whose end was confirmed last

	frameMax atomic.Int64 // as agreed upon with the node; zero: not yet, or without limit
	patience atomic.Int64 // time.Duration of the last read deadline; zero: none

	reads atomic.Uint64 // begun and ended: odd while there is one
	seen  uint64        // by unread
	looks int           // of unread that have seen no other
}

// aheadBytes is how much is read at once.
const aheadBytes = 64 << 10

// The frames of AMQP 0-9-1.
const (
	frameMethod    = 1
	frameHeader    = 2
	frameBody      = 3
	frameHeartbeat = 8
	frameEnd       = 0xCE
	frameHeadBytes = 7 // kind, channel, size of the payload
)

// unreadLooks is after how many looks without a read the library has ceased to read: on
// the slowest machine it does a moment after what has come.
const unreadLooks = 4

func newDoor(conn net.Conn) *door {
	d := &door{Conn: conn, cancelled: make(map[uint16]string)}
	d.ahead = bufio.NewReaderSize(arrivals{d}, aheadBytes)
	return d
}

// arrivals reads from a door's connection. What arrives shows that the node is there.
type arrivals struct{ d *door }

func (a arrivals) Read(p []byte) (int, error) {
	n, err := a.d.Conn.Read(p)
	if patience := a.d.patience.Load(); n > 0 && patience > 0 {
		_ = a.d.Conn.SetReadDeadline(time.Now().Add(time.Duration(patience))) // the next read tells
	}
	return n, err
}

// SetReadDeadline is how the library gives the node until its next frame.
func (d *door) SetReadDeadline(t time.Time) error {
	patience := time.Duration(0)
	if !t.IsZero() {
		patience = max(time.Until(t), 0)
	}
	d.patience.Store(int64(patience))
	return d.Conn.SetReadDeadline(t)
}

// unread tells whether the library has ceased to read. It does for as long as nobody takes
// what it has read: then not even the loss of the connection is noticed. It is to be asked
// now and then, by one goroutine.
func (d *door) unread() bool {
	d.looks++
	if reads := d.reads.Load(); reads%2 == 1 || reads != d.seen {
		d.seen, d.looks = reads, 0
	}
	return d.looks >= unreadLooks
}

// Read gives what has arrived. It blocks only while there is nothing to give.
func (d *door) Read(p []byte) (n int, err error) {
	d.reads.Add(1)
	defer d.reads.Add(1)
	for n < len(p) {
		switch {
		case len(d.held) > 0:
			copied := copy(p[n:], d.held)
			d.held = d.held[copied:]
			n += copied
		case n > 0 && d.ahead.Buffered() == 0:
			return n, nil
		case d.left > 0:
			read, err := d.ahead.Read(p[n : n+int(min(d.left, int64(len(p)-n)))])
			n += read
			d.left -= int64(read)
			if err != nil {
				return n, err
			}
		case n > 0 && !d.whole():
			return n, nil
		default:
			if err := d.look(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// whole tells whether look would not block.
func (d *door) whole() bool {
	if d.ahead.Buffered() < frameHeadBytes {
		return false
	}
	head, _ := d.ahead.Peek(frameHeadBytes)
	looked := head[0] == frameHeader || head[0] == frameMethod
	return !looked || frameBytes(head) <= int64(d.ahead.Buffered())
}

// look decides what becomes of the frame that begins here. What has arrived of one that
// never ends passes: the library says what is wrong with it.
func (d *door) look() error {
	head, err := d.ahead.Peek(frameHeadBytes)
	if err != nil {
		d.left = int64(d.ahead.Buffered())
		if d.left == 0 {
			return err
		}
		return nil
	}
	size := frameBytes(head)
	switch head[0] {
	case frameMethod:
		if size <= aheadBytes { // a longer one is none of those, and nobody waits for it here
			if frame, err := d.ahead.Peek(int(size)); err == nil && d.repeats(frame) {
				_, err = d.ahead.Discard(len(frame))
				return err
			}
		}
		d.left = size
		return nil
	case frameBody, frameHeartbeat:
		d.left = size
		return nil
	case frameHeader:
	default:
		d.left = math.MaxInt64 // this is not AMQP
		return nil
	}
	if size > aheadBytes {
		var frame bytes.Buffer // grows with what arrives, whatever its size is said to be
		_, err = io.CopyN(&frame, d.ahead, size)
		d.held = frame.Bytes()
		if err != nil {
			return nil // it comes again with the next read
		}
		if other := readable(d.held, d.frameMax.Load()); other != nil {
			d.held = other
		}
		return nil
	}
	frame, err := d.ahead.Peek(int(size))
	if err == nil {
		d.held = readable(frame, d.frameMax.Load())
	}
	if d.held == nil {
		d.left = int64(len(frame))
		return nil // an error comes again, as above
	}
	_, err = d.ahead.Discard(len(frame))
	return err
}

// The methods, class and number, that tell when a consumer's end is confirmed.
const (
	methodChannelOpenOk = 20<<16 | 11
	methodCancelOk      = 60<<16 | 31
)

// repeats tells whether a frame confirms once more that a consumer has ended, which nobody
// waits for, as brokers do if its queue is deleted in that moment. The library would
// read nothing more until somebody asks something on that channel.
func (d *door) repeats(frame []byte) bool {
	if len(frame) < frameOverhead+4 {
		return false
	}
	channel := binary.BigEndian.Uint16(frame[1:])
	switch method := frame[frameHeadBytes:]; binary.BigEndian.Uint32(method) {
	case methodChannelOpenOk:
		delete(d.cancelled, channel)
	case methodCancelOk:
		if d.cancelled[channel] == string(method) {
			return true
		}
		d.cancelled[channel] = string(method)
	}
	return false
}

// frameBytes is the size of the frame with that head.
func frameBytes(head []byte) int64 {
	return frameOverhead + int64(binary.BigEndian.Uint32(head[3:]))
}

// maxElements is how many elements a table or an array may have: the library takes no
// more.
const maxElements = 8192

// The flags of the properties that go before or with the headers.
const (
	flagContentType     = 1 << 15
	flagContentEncoding = 1 << 14
	flagHeaders         = 1 << 13
)

// readable returns what goes in place of a frame with the properties of a message if the
// library would refuse its headers; nil if it would not, or for another reason.
func readable(frame []byte, frameMax int64) []byte {
	const flagsAt = 12 // after class, weight and the size of the body
	payload := frame[frameHeadBytes : len(frame)-1]
	if frame[len(frame)-1] != frameEnd || len(payload) < flagsAt+2 {
		return nil
	}
	flags := binary.BigEndian.Uint16(payload[flagsAt:])
	if flags&flagHeaders == 0 {
		return nil
	}
	before := flagsAt + 2
	for _, flag := range [...]uint16{flagContentType, flagContentEncoding} {
		if flags&flag == 0 {
			continue
		}
		if before >= len(payload) {
			return nil
		}
		before += 1 + int(payload[before])
	}
	if before > len(payload) {
		return nil
	}
	table, after, err := cutLong(payload[before:])
	if err == nil {
		err = checkTable(table, 0)
	}
	complete := legible(flags, after)
	if err == nil && !complete {
		err = errCutShort
	}
	if err == nil && frameMax > 0 && int64(len(frame)) > frameMax {
		err = fmt.Errorf("with the other properties they have %d bytes, of %d at most", len(payload), frameMax-frameOverhead)
	}
	if err == nil {
		return nil
	}
	if !complete { // the size of the table must be wrong
		flags, after = flags&(flagContentType|flagContentEncoding|flagHeaders), nil
	}
	notice := appendField(nil, HeaderUnreadable, 'S', []byte(err.Error()))
	out := make([]byte, 0, len(frame)+256)
	out = append(out, frame[:frameHeadBytes+before]...)
	binary.BigEndian.PutUint16(out[frameHeadBytes+flagsAt:], flags)
	if raw := appendField(notice, HeaderRaw, 'x', table); frameMax == 0 || int64(len(out)+4+len(raw)+len(after)+1) <= frameMax {
		notice = raw
	}
	out = appendLong(out, notice)
	out = append(append(out, after...), frameEnd)
	binary.BigEndian.PutUint32(out[3:], uint32(len(out)-frameOverhead))
	return out
}

// legible tells whether b has the properties that follow the headers by flags.
func legible(flags uint16, b []byte) bool {
	for bit := 12; bit >= 2; bit-- {
		size := 0
		switch {
		case flags&(1<<bit) == 0:
			continue
		case bit == 12 || bit == 11: // delivery-mode, priority
			size = 1
		case bit == 6: // timestamp
			size = 8
		case len(b) == 0:
			return false
		default:
			size = 1 + int(b[0])
		}
		if len(b) < size {
			return false
		}
		b = b[size:]
	}
	return true
}

func appendField(b []byte, name string, kind byte, value []byte) []byte {
	b = append(append(b, byte(len(name))), name...)
	return appendLong(append(b, kind), value)
}

func appendLong(b, value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(value))), value...)
}

var errCutShort = errors.New("they are cut short")

// cutLong cuts what has its size in front of it off b. If b is too short, all of it is cut
// off.
func cutLong(b []byte) (long, rest []byte, err error) {
	if len(b) < 4 {
		return b, nil, errCutShort
	}
	size, b := int64(binary.BigEndian.Uint32(b)), b[4:]
	if size > int64(len(b)) {
		return b, nil, errCutShort
	}
	return b[:size], b[size:], nil
}

// checkTable returns why the library would not read the fields of a table.
func checkTable(b []byte, depth int) error {
	for n := 1; len(b) > 0; n++ {
		name := 1 + int(b[0])
		if len(b) < name {
			return errCutShort
		}
		var err error
		if b, err = checkValue(b[name:], n, depth); err != nil {
			return err
		}
	}
	return nil
}

// checkArray returns why the library would not read the values of an array.
func checkArray(b []byte, depth int) error {
	for n := 1; len(b) > 0; n++ {
		var err error
		if b, err = checkValue(b, n, depth); err != nil {
			return err
		}
	}
	return nil
}

// checkValue returns what follows the value that b begins with, the n-th of a table or an
// array at that depth, or why the library would not read it.
func checkValue(b []byte, n, depth int) (rest []byte, err error) {
	if n > maxElements {
		return nil, fmt.Errorf("a table or an array has more than %d elements", maxElements)
	}
	if len(b) == 0 {
		return nil, errCutShort
	}
	kind, b := b[0], b[1:]
	size := 0
	switch kind {
	case 'V':
	case 't', 'B', 'b':
		size = 1
	case 's', 'u':
		size = 2
	case 'I', 'i', 'f':
		size = 4
	case 'D':
		size = 5
	case 'l', 'd', 'T':
		size = 8
	case 'S', 'x', 'F', 'A':
		long, rest, err := cutLong(b)
		switch {
		case err != nil:
		case (kind == 'F' || kind == 'A') && depth == maxDepth:
			err = fmt.Errorf("they are nested more than %d deep", maxDepth)
		case kind == 'F':
			err = checkTable(long, depth+1)
		case kind == 'A':
			err = checkArray(long, depth+1)
		}
		return rest, err
	default:
		return nil, fmt.Errorf("one has the unknown type %q", kind)
	}
	if len(b) < size {
		return nil, errCutShort
	}
	return b[size:], nil
}
