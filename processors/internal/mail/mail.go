// Package mail composes mails and has them taken by an SMTP server, over kept
// connections, or puts them into a Maildir.
//
// A mail goes to all of its recipients or to none. What keeps it from being sent is
// an error with a mark of package consumer: permanent if the mail is at fault, or the
// server refuses it for good (a 5xx reply to MAIL, RCPT, DATA or the content), and
// unavailable if no mail could be sent: the server is away, refuses connections or the
// login, or is going down (421), or the disk is full. All else is worth another try: 4xx
// replies to a recipient or the content, and connections lost on the way.
//
// No protocol can tell whether a mail was taken when the connection is lost before
// the server's last reply, so that a repeat may be a double. Its Message-ID is the
// same each time, made of the queue, the delivery's message-id and its body, and lets
// receivers recognise it.
package mail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	netmail "net/mail"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/disk"
)

// Config says where mails go. Its fields are those of the processors that have them.
type Config struct {
	// SMTPURL is smtp://user:password@host:587, where STARTTLS is then required, or
	// smtps://user:password@host:465, which is TLS from the first byte. User and
	// password may be absent; reserved characters in them are percent-encoded.
	// Parameters: tls=none speaks without TLS, and logs in only to this very
	// machine; cacertfile=/path/ca.pem trusts that authority and no other, where
	// otherwise those of the system count (see also SSL_CERT_FILE); helo=name is the
	// name to greet with, where otherwise it is the host's.
	SMTPURL string
	// Maildir is a folder that mails are put into instead. It is made if absent.
	Maildir string
	// From is the sender of a mail that names none.
	From string
	// FromAllowed are the senders that a mail may name, separated by commas:
	// addresses, @domain for all of a domain, or * for any. That of From always may.
	FromAllowed string
}

// parsed is a Config without its faults.
type parsed struct {
	relay   *relay // nil: a Maildir
	from    *netmail.Address
	allowed senders
}

// Validate reports every fault of c. It changes nothing.
func (c Config) Validate() error {
	_, err := c.parse()
	return err
}

func (c Config) parse() (p parsed, err error) {
	var transport, from, allowed error
	switch {
	case c.SMTPURL == "" && c.Maildir == "":
		transport = errors.New("neither SMTP_URL nor MAILDIR is set: set one of them")
	case c.SMTPURL != "" && c.Maildir != "":
		transport = errors.New("both SMTP_URL and MAILDIR are set: remove one of them")
	case c.Maildir != "":
		if err := disk.CheckFolder(c.Maildir); err != nil {
			transport = unusableMaildir(err)
		}
	default:
		p.relay, transport = parseURL(c.SMTPURL)
	}
	if c.From == "" {
		from = errors.New("FROM is not set: set it to the sender's address, such as Shop <shop@example.com>")
	} else if p.from, from = parseAddress(c.From); from != nil {
		from = fmt.Errorf("FROM: %w", from)
	}
	p.allowed, allowed = parseSenders(c.FromAllowed, p.from)
	return p, errors.Join(transport, from, allowed)
}

// Open returns the sender of a queue that works so many deliveries at once. It makes
// the Maildir if that is absent, and connects to nothing.
func (c Config) Open(concurrency int, log *slog.Logger) (*Sender, error) {
	p, err := c.parse()
	if err != nil {
		return nil, err
	}
	s := &Sender{from: p.from, allowed: p.allowed}
	if p.relay != nil {
		s.transport = newPool(p.relay, concurrency, log)
		return s, nil
	}
	s.transport, err = newMaildir(c.Maildir)
	return s, err
}

// Check greets the server and logs in, and sends nothing. Of a Maildir it says no more than
// Validate.
func (c Config) Check(ctx context.Context) (found string, err error) {
	p, err := c.parse()
	if err != nil {
		return "", err
	}
	if p.relay == nil {
		return "the Maildir can be used", nil
	}
	session, err := p.relay.dial(ctx)
	if err != nil {
		return "", err
	}
	session.quit()
	if p.relay.user == "" {
		return "the SMTP server " + p.relay.address + " answers", nil
	}
	return "the SMTP server " + p.relay.address + " takes the login", nil
}

// A Sender sends mails. It may be used by several goroutines.
type Sender struct {
	from      *netmail.Address
	allowed   senders
	transport transport
}

// A transport takes mails away. It may be used by several goroutines.
type transport interface {
	// send blocks until the mail has been taken, all of it for every recipient, or
	// an error says why not; at the latest until soon after ctx has ended.
	send(ctx context.Context, m *mail) error
	io.Closer
}

// Sent is what became of a mail.
type Sent struct {
	MessageID  string `json:"message_id"`
	Recipients int    `json:"recipients"` // their number
}

// Send sends m, which d asks for. It blocks until the mail has been taken, or soon
// after ctx has ended.
func (s *Sender) Send(ctx context.Context, d consumer.Delivery, m *Message) (Sent, error) {
	composed, err := s.compose(d, m)
	if err != nil {
		return Sent{}, consumer.Permanent(err)
	}
	if err := s.transport.send(ctx, composed); err != nil {
		return Sent{}, err
	}
	return Sent{composed.id, len(composed.recipients)}, nil
}

// Close closes the kept connections. No Send may be under way.
func (s *Sender) Close() error { return s.transport.Close() }
