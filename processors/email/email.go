// Package email sends a mail for each delivery: to an SMTP server over kept
// connections, or into a Maildir.
//
// The body of a delivery is a JSON object:
//
//	{
//	  "to": "Ada <ada@example.com>",        one address or a list of them;
//	  "cc": [], "bcc": [],                  at least one of the three is needed
//	  "from": "shop@example.com",           without it the queue's FROM
//	  "reply_to": "help@example.com",
//	  "subject": "Your order",              may come from the template instead
//	  "template": "confirmation",           a template with its data, or
//	  "data": {"order": 4711},
//	  "text": "...", "html": "...",         one or both of these
//	  "attachments": [{"name": "invoice.pdf", "content_type": "application/pdf", "content": "base64"}]
//	}
//
// A body that is not of this form is dead-lettered, as is a mail that the server
// refuses for good (a 5xx reply to MAIL, RCPT, DATA or the content). All else is
// tried again: 4xx replies, lost connections, timeouts, and whatever is wrong with
// the connection rather than the mail, such as a refused password or certificate.
// A mail goes to all of its recipients or to none.
//
// No protocol can tell whether a mail was taken when the connection is lost before
// the server's last reply, so that a repeat may be a double. Its Message-ID is the
// same each time, made of the queue and the delivery's message-id, or the body if
// it has none, and lets receivers recognise it.
package email

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	netmail "net/mail"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/disk"
	"github.com/warrenmq/warren/processors/registry"
)

// Config is what an e-mail processor is made from.
type Config struct {
	// SMTPURL is smtp://user:password@host:587, where STARTTLS is then required, or
	// smtps://user:password@host:465, which is TLS from the first byte. User and
	// password may be absent; reserved characters in them are percent-encoded.
	// Parameters: tls=none speaks without TLS, and logs in only to this very
	// machine; cacertfile=/path/ca.pem trusts that authority and no other, where
	// otherwise those of the system count (see also SSL_CERT_FILE); helo=name is the
	// name to greet with, where otherwise it is the host's.
	SMTPURL string `envconfig:"SMTP_URL" secret:"true" desc:"The server: smtp://user:password@host:587, with STARTTLS, or smtps://user:password@host:465. ?tls=none is plain, ?cacertfile=/path/ca.pem trusts that authority. Set this or MAILDIR."`
	// Maildir is a folder that mails are put into instead. It is made if absent.
	Maildir string `envconfig:"MAILDIR" desc:"A Maildir folder to put the mails into instead of sending them. Set this or SMTP_URL."`
	// From is the sender of a mail that names none. Required.
	From string `envconfig:"FROM" required:"true" desc:"The sender of a mail that names none, such as Shop <shop@example.com>."`
	// Templates is a folder with NAME.html and NAME.txt, read once at start.
	// Empty means no templates.
	Templates string `envconfig:"TEMPLATES" desc:"A folder with NAME.html and NAME.txt, the templates of the mails."`
}

// Validate reads the templates. The error names every fault of c.
func (c *Config) Validate(registry.Queue) error {
	_, _, err := c.processor()
	return err
}

// Open returns the processor of a queue. It is an [io.Closer], which closes the kept
// connections.
func (c *Config) Open(q registry.Queue, log *slog.Logger) (consumer.Processor, error) {
	p, r, err := c.processor()
	if err != nil {
		return nil, err
	}
	if r != nil {
		p.transport = newPool(r, q.Concurrency, log.With("queue", q.Name))
	} else if p.transport, err = newMaildir(c.Maildir); err != nil {
		return nil, err
	}
	return p, nil
}

// processor returns the processor without its transport, and the relay that this has to
// speak to; nil if there is none but a Maildir.
func (c *Config) processor() (*processor, *relay, error) {
	p := new(processor)
	var r *relay
	var faults [3]error
	switch {
	case c.SMTPURL == "" && c.Maildir == "":
		faults[0] = errors.New("neither SMTP_URL nor MAILDIR is set: set one of them")
	case c.SMTPURL != "" && c.Maildir != "":
		faults[0] = errors.New("both SMTP_URL and MAILDIR are set: remove one of them")
	case c.Maildir != "":
		if err := disk.CheckFolder(c.Maildir); err != nil {
			faults[0] = unusableMaildir(err)
		}
	default:
		r, faults[0] = parseURL(c.SMTPURL)
	}
	p.from, faults[1] = configuredFrom(c.From)
	p.templates, faults[2] = loadTemplates(c.Templates)
	return p, r, errors.Join(faults[:]...)
}

func configuredFrom(value string) (*netmail.Address, error) {
	if value == "" {
		return nil, errors.New("FROM is not set: set it to the sender's address, such as Shop <shop@example.com>")
	}
	from, err := parseAddress(value)
	if err != nil {
		return nil, fmt.Errorf("FROM: %w", err)
	}
	return from, nil
}

// A transport takes mails away. It may be used by several goroutines.
type transport interface {
	// send blocks until the mail has been taken, all of it for every recipient, or
	// an error says why not; at the latest until soon after ctx has ended.
	send(ctx context.Context, m *mail) error
	io.Closer
}

type processor struct {
	from      *netmail.Address
	templates templates
	transport transport
}

var (
	_ consumer.Processor = (*processor)(nil)
	_ io.Closer          = (*processor)(nil)
)

// Process sends the mail that the body of d describes. The result is a JSON object
// with message_id and recipients, their number.
func (p *processor) Process(ctx context.Context, d consumer.Delivery, scope *consumer.Scope) error {
	return consumer.JSON(func(ctx context.Context, msg message, scope *consumer.Scope) error {
		m, err := p.compose(d, &msg)
		if err != nil {
			return consumer.Permanent(err)
		}
		if err := p.transport.send(ctx, m); err != nil {
			return err
		}
		scope.Logger().Debug("mail sent", "mail_id", m.id, "recipients", len(m.recipients))
		body, err := json.Marshal(result{m.id, len(m.recipients)})
		if err != nil {
			return err
		}
		scope.SetResult(consumer.Result{Body: body})
		return nil
	}).Process(ctx, d, scope)
}

type result struct {
	MessageID  string `json:"message_id"`
	Recipients int    `json:"recipients"`
}

// Close closes the kept connections. No Process may be under way.
func (p *processor) Close() error { return p.transport.Close() }
