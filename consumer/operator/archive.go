package operator

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// An Archive keeps what is discarded; *os.File is one.
type Archive interface {
	io.Writer
	// Sync returns when what was written outlasts the machine.
	Sync() error
}

// Discard takes dead letters of a work queue away. Each is in the archive for good before it is
// taken off the queue; without one, it is gone. It ends as Replay does.
func (b Broker) Discard(ctx context.Context, queue string, which Selection, archive Archive, progress func(Done)) (done Done, err error) {
	s, err := b.sweep(ctx, dead(queue))
	if err != nil {
		return done, err
	}
	defer func() { err = s.end(err) }()
	return s.discard(ctx, which.Most, archive, progress, func(d *amqp.Delivery) (Line, bool) {
		l := newLetter(queue, s.conn.User, d)
		if !which.has(l.ID, l) {
			return Line{}, false
		}
		return l.line(), true
	})
}

// discard takes away what has a line, batch after batch.
func (s *sweep) discard(ctx context.Context, most int, archive Archive, progress func(Done), line func(*amqp.Delivery) (Line, bool)) (done Done, err error) {
	done.All = s.Total
	for most == 0 || done.Matched < most {
		batch, err := s.Next(ctx)
		if err != nil || len(batch) == 0 {
			return done, err
		}
		var meant []*amqp.Delivery
		var lines bytes.Buffer
		for i := range batch {
			if most > 0 && done.Matched == most {
				break
			}
			done.Looked++
			l, ok := line(&batch[i])
			if !ok {
				continue
			}
			done.Matched++
			if archive != nil {
				text, err := l.marshal()
				if err != nil {
					return done, err
				}
				lines.Write(append(text, '\n'))
			}
			meant = append(meant, &batch[i])
		}
		if archive != nil && len(meant) > 0 {
			if err := keep(archive, lines.Bytes()); err != nil {
				return done, fmt.Errorf("nothing is discarded that is not in the archive: %w", err)
			}
		}
		for _, d := range meant {
			if err := s.Ack(d); err != nil {
				return done, err
			}
			done.Done++
		}
		progress(done)
	}
	s.Rest(ctx)
	return done, nil
}

// keep writes lines for good or, into a file, not at all: a part of them would be of messages
// that stay, and of half a line.
func keep(archive Archive, lines []byte) error {
	file, isFile := archive.(interface {
		Stat() (fs.FileInfo, error)
		Truncate(size int64) error
	})
	before := int64(0)
	if isFile {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		before, isFile = info.Size(), info.Mode().IsRegular()
	}
	_, err := archive.Write(lines)
	if err == nil {
		err = archive.Sync()
	}
	if err != nil && isFile {
		err = errors.Join(err, file.Truncate(before))
	}
	return err
}

func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// A LineError is what is wrong with a line.
type LineError struct {
	Line  int // 1 is the first
	Cause error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Cause) }
func (e *LineError) Unwrap() error { return e.Cause }

// ErrUnfinished is what is wrong with the last line of a file that was not written to its end.
var ErrUnfinished = errors.New("it is unfinished, and left out; all before it is whole")

// Lines calls each with the messages that in has, a Line each; empty ones are passed over. It
// returns how many there were before the first error, ErrUnfinished of the last line among them.
func Lines(in io.Reader, each func(Line) error) (n int, err error) {
	return numbered(in, func(_ int, l Line) error { return each(l) })
}

// numbered is Lines with the number of each.
func numbered(in io.Reader, each func(number int, l Line) error) (n int, err error) {
	lines := bufio.NewReaderSize(in, 1<<16)
	for number := 1; ; number++ {
		text, err := lines.ReadBytes('\n')
		if text = bytes.TrimSpace(text); len(text) > 0 {
			l, parsed := ParseLine(text)
			if parsed != nil {
				if errors.Is(err, io.EOF) && errors.Is(parsed, io.ErrUnexpectedEOF) {
					parsed = ErrUnfinished
				}
				return n, &LineError{number, parsed}
			}
			if err := each(number, l); err != nil {
				return n, &LineError{number, err}
			}
			n++
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// A Target is where lines are published to.
type Target struct {
	Exchange, Key string
	// AsLetters keeps what Warren's headers say of why a message is dead. Without it they are
	// left out: the message is a new one.
	AsLetters bool
	// MessageID makes an id for a message that has none. Nil means that it goes without.
	MessageID func() string
}

// LettersOf is the Target of a work queue's dead letters.
func LettersOf(queue string) Target { return Target{Key: dead(queue), AsLetters: true} }

// PublishLines publishes the messages that in has, and calls published with the id of each once
// the broker has confirmed that a queue has it, in their order. It stops at the first line
// that is wrong, is not taken, or whose id published does not take, which the error names, as it does
// those behind that are taken all the same, and those of which the broker has not said.
func (b Broker) PublishLines(ctx context.Context, in io.Reader, to Target, published func(id string) error) error {
	conn, err := b.dial(ctx, "publish")
	if err != nil {
		return err
	}
	defer conn.Close()
	pipe, err := conn.OpenPipe(mostWindow)
	if err != nil {
		return err
	}
	defer pipe.Close()
	late, cancel := broker.WithGrace(ctx, lastWords)
	defer cancel()
	under := underWay{to: to}
	_, err = numbered(in, func(number int, l Line) error {
		o := to.outgoing(l)
		under.lines = append(under.lines, number)
		return broker.ExplainPublish(o.Exchange, o.Key, pipe.Publish(ctx, o, func(err error) error {
			return under.answered(err, func() error { return published(o.Message.MessageId) })
		}))
	})
	flushed := pipe.Flush(late)
	for _, number := range under.lines[:pipe.InFlight()] {
		under.failed(number, flushed)
	}
	if under.wrong != nil {
		return under.explained()
	}
	return err
}

// underWay are lines of which it is not known yet whether they are taken.
type underWay struct {
	to    Target
	lines []int
	wrong *LineError // the first that something is wrong with
	later []string   // those that are taken behind it
	// Those from first to last may be taken or not: the broker has not said. Zero means none.
	first, last int
}

// answered tells what has become of the first of them.
func (u *underWay) answered(err error, published func() error) error {
	number := u.lines[0]
	u.lines = u.lines[1:]
	if err != nil {
		u.failed(number, err)
		return err
	}
	if u.wrong != nil {
		u.later = append(u.later, strconv.Itoa(number))
	}
	if err = published(); err != nil && u.wrong == nil {
		u.wrong = &LineError{number, fmt.Errorf("published, but its id was not printed: %w", err)}
	}
	return err
}

// failed tells that one is not known to be taken.
func (u *underWay) failed(number int, err error) {
	if u.wrong == nil {
		u.wrong = &LineError{number, broker.ExplainPublish(u.to.Exchange, u.to.Key, err)}
	}
	if errors.Is(err, broker.ErrRefused) || errors.Is(err, broker.ErrUnroutable) || broker.IsMissing(err) {
		return
	}
	if u.first == 0 {
		u.first = number
	}
	u.last = number
}

// explained is what is wrong, with what became of those behind it.
func (u *underWay) explained() error {
	err := u.wrong.Cause
	if len(u.later) > 0 {
		err = fmt.Errorf("%w; behind it these are published all the same: %s", err, strings.Join(u.later, ", "))
	}
	switch u.first {
	case 0:
	case u.last:
		err = fmt.Errorf("%w; whether it is published is not known of line %d", err, u.first)
	default:
		err = fmt.Errorf("%w; whether they are published is not known of lines %d to %d", err, u.first, u.last)
	}
	return &LineError{u.wrong.Line, err}
}

// outgoing is a line as it is published there.
func (t Target) outgoing(l Line) broker.Outgoing {
	headers := make(map[string]any, len(l.Headers)+1)
	for name, v := range l.Headers {
		switch {
		case broker.IsBrokers(name):
		case broker.IsOwn(name) && !t.AsLetters && name != broker.HeaderNotBefore:
		case (name == "CC" || name == "BCC") && t.AsLetters: // or copies would be sent
			headers[broker.OriginalPrefix+name] = v
		default:
			headers[name] = v
		}
	}
	o := broker.Outgoing{Exchange: t.Exchange, Key: t.Key, Purpose: broker.ForProgram, Message: amqp.Publishing{
		ContentType: string(l.ContentType), ContentEncoding: string(l.ContentEncoding), DeliveryMode: amqp.Persistent, Priority: l.Priority,
		CorrelationId: string(l.CorrelationID), ReplyTo: string(l.ReplyTo), MessageId: string(l.MessageID), Timestamp: l.Timestamp.Time,
		Type: string(l.Type), AppId: string(l.AppID), Body: []byte(l.Body),
	}}
	if t.AsLetters {
		o.Purpose = broker.ForDeadLetter
		keep := func(name string, value Bytes) {
			if _, there := headers[broker.OriginalPrefix+name]; value != "" && !there {
				headers[broker.OriginalPrefix+name] = string(value)
			}
		}
		keep("expiration", l.Expiration)
		keep("user-id", l.UserID)
	} else {
		o.Message.Expiration = string(l.Expiration)
		if o.Message.MessageId == "" && t.MessageID != nil {
			o.Message.MessageId = t.MessageID()
		}
	}
	o.Message.Headers = broker.Table(headers)
	return o
}
