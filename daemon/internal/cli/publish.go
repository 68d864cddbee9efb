package cli

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/jsonvalue"
	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

type publishCommand struct {
	Queue string  `arg:"" help:"The queue; with --exchange, the routing key."`
	Body  *string `arg:"" optional:"" help:"The body. Without it and --file, it is read from standard input."`

	File          string        `short:"f" placeholder:"PATH" help:"Read the body from a file."`
	Lines         string        `placeholder:"PATH" help:"Publish a message for each line of this file, - for standard input: JSON objects as dead export writes them. Nothing but the queue and --exchange is given beside it."`
	Exchange      string        `placeholder:"NAME" help:"Publish to this exchange, not right to the queue."`
	MessageID     string        `name:"message-id" placeholder:"ID" help:"The message's identity; one is made if it has none."`
	CorrelationID string        `name:"correlation-id" placeholder:"ID" help:"What the result is to carry, to be told from others."`
	ReplyTo       string        `placeholder:"QUEUE" help:"The queue that the result is to be published to."`
	Type          string        `placeholder:"TYPE" help:"The message's type, which the processor is told."`
	ContentType   string        `default:"application/json" placeholder:"TYPE" help:"The body's media type (application/json)."`
	Priority      uint8         `placeholder:"N" help:"The message's priority."`
	Expiration    time.Duration `placeholder:"DURATION" help:"How long the message may stay in the queue, such as 90s; it is dead-lettered then."`
	Delay         time.Duration `placeholder:"DURATION" help:"Have the message worked no sooner than after this time, such as 90s."`
	At            string        `placeholder:"TIME" help:"Have the message worked no sooner than at this time: 2026-12-24T18:00:00+01:00, or 2026-12-24 18:00 in the zone of this machine."`
	Header        []string      `short:"H" sep:"none" placeholder:"NAME=VALUE" help:"A header, any number of times. A number, true, false and null are taken as such, all else as a string: x-delay=5000 delays by 5 s."`
	Timeout       time.Duration `default:"30s" placeholder:"DURATION" help:"How long to wait for the broker (30s)."`
}

// Run publishes the message and prints its message-id once the broker has it.
func (p *publishCommand) Run(ctx context.Context, a App) error {
	if p.Lines != "" {
		return p.lines(ctx, a)
	}
	nodes, err := settings.Nodes()
	if err != nil {
		return err
	}
	msg, err := p.message(a.Name, a.In)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.Timeout, fmt.Errorf("no confirm within %v; is the broker up, and free of alarms?", p.Timeout))
	defer cancel()
	if err := operator.Publish(ctx, nodes, msg); err != nil {
		return fmt.Errorf("message for %s not published: %w", p.Queue, err)
	}
	_, err = fmt.Fprintln(a.Out, msg.MessageID)
	return err
}

// What is given if nothing is.
const (
	publishTimeout     = 30 * time.Second
	publishContentType = "application/json"
)

// lines publishes a message for each line, and prints its message-id once the broker has it.
func (p *publishCommand) lines(ctx context.Context, a App) error {
	if given := (publishCommand{Queue: p.Queue, Lines: p.Lines, Exchange: p.Exchange, ContentType: publishContentType, Timeout: publishTimeout}); !reflect.DeepEqual(*p, given) {
		return errors.New("--lines has bodies, properties and headers in the lines; leave out all but the queue and --exchange")
	}
	path := p.Lines
	if path == "-" {
		path = ""
	}
	in, err := opened(path, a.In)
	if err != nil {
		return fmt.Errorf("--lines: %w", err)
	}
	defer func() { _ = in.Close() }()
	b, err := a.operator()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(a.Out)
	n := 0
	err = b.PublishLines(ctx, in, operator.Target{Exchange: p.Exchange, Key: p.Queue, MessageID: rand.Text}, func(id string) error {
		n++
		_, err := fmt.Fprintln(out, id)
		return err
	})
	return errors.Join(partly(n, err), out.Flush())
}

// message makes the message of the program, its body from in if it is given in no other way.
func (p *publishCommand) message(program string, in io.Reader) (consumer.Message, error) {
	headers, err := parseHeaders(p.Header)
	if err != nil {
		return consumer.Message{}, err
	}
	due, err := p.due(time.Now())
	if err != nil {
		return consumer.Message{}, err
	}
	if !due.IsZero() {
		headers["x-warren-not-before"] = due.UnixMilli()
	}
	body, err := p.body(in)
	if err != nil {
		return consumer.Message{}, err
	}
	if p.MessageID == "" {
		p.MessageID = rand.Text()
	}
	return consumer.Message{
		Exchange:      p.Exchange,
		RoutingKey:    p.Queue,
		Body:          body,
		MessageID:     p.MessageID,
		CorrelationID: p.CorrelationID,
		ReplyTo:       p.ReplyTo,
		Type:          p.Type,
		AppID:         program,
		ContentType:   p.ContentType,
		Priority:      p.Priority,
		Expiration:    p.Expiration,
		Headers:       headers,
	}, nil
}

// due is when the message may be worked; zero means at once. It is an instant rather than
// a delay, which would begin only when a worker takes the message.
func (p *publishCommand) due(now time.Time) (time.Time, error) {
	if p.Delay != 0 && p.At != "" {
		return time.Time{}, errors.New("--delay and --at are both given; leave one out")
	}
	due := time.Time{}
	switch {
	case p.Delay < 0:
		return due, fmt.Errorf("--delay is %v; it must be positive", p.Delay)
	case p.Delay > 0:
		due = now.Add(p.Delay)
	case p.At == "":
		return due, nil
	default:
		for _, format := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04"} {
			var err error
			if due, err = time.ParseInLocation(format, p.At, time.Local); err == nil {
				break
			}
		}
		if due.IsZero() {
			return due, fmt.Errorf("--at is %q; it must be a time such as 2026-12-24T18:00:00+01:00 or 2026-12-24 18:00", p.At)
		}
		if due.Before(now) {
			return due, fmt.Errorf("--at is %s, which has passed", due.Format(time.RFC3339))
		}
	}
	if due.Sub(now) > consumer.MaxDelay {
		return due, fmt.Errorf("the message would be due on %s; it must be within 366 days", due.Format(time.DateOnly))
	}
	return due, nil
}

func (p *publishCommand) body(in io.Reader) ([]byte, error) {
	switch {
	case p.Body != nil && p.File != "":
		return nil, errors.New("the body is given as an argument and with --file; leave one out")
	case p.Body != nil:
		return []byte(*p.Body), nil
	case p.File != "":
		body, err := os.ReadFile(p.File)
		if err != nil {
			return nil, fmt.Errorf("the body, from --file: %w", err)
		}
		return body, nil
	}
	body, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("the body, from standard input: %w", err)
	}
	return body, nil
}

// parseHeaders reads headers written as name=value. A value that is a JSON scalar
// is taken as such: what a broker or a processor compares with a number has to be one.
func parseHeaders(args []string) (map[string]any, error) {
	headers := make(map[string]any)
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("header %q is not of the form name=value", arg)
		}
		headers[name] = scalar(value)
	}
	return headers, nil
}

// scalar is the int64, float64, bool, string or nil that value is as JSON, or
// value itself if it is no JSON scalar.
func scalar(value string) any {
	v, err := jsonvalue.Parse(value)
	switch v.(type) {
	case int64, float64, bool, string, nil:
		if err == nil {
			return v
		}
	}
	return value
}
