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
// A body that is not of this form is dead-lettered. What becomes of a mail that cannot
// be sent, and when a repeat may double it, is said at package mail below
// processors/internal.
package email

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/mail"
	"github.com/warrenmq/warren/processors/internal/strictjson"
	"github.com/warrenmq/warren/processors/registry"
)

// Config is what an e-mail processor is made from.
type Config struct {
	// SMTPURL, Maildir, From and FromAllowed are those of mail.Config, which tells more.
	SMTPURL string `envconfig:"SMTP_URL" secret:"true" desc:"The server: smtp://user:password@host:587, with STARTTLS, or smtps://user:password@host:465. ?tls=none is plain, ?cacertfile=/path/ca.pem trusts that authority. Set this or MAILDIR."`
	Maildir string `envconfig:"MAILDIR" example:"/var/lib/warren/mail" desc:"A Maildir folder to put the mails into instead of sending them. Set this or SMTP_URL."`
	From    string `envconfig:"FROM" required:"true" example:"Shop <shop@example.com>" desc:"The sender of a mail that names none, such as \"Shop <shop@example.com>\"."`
	// FromAllowed bounds what a publisher may have a mail say.
	FromAllowed string `envconfig:"FROM_ALLOWED" desc:"The senders that a message may name beside FROM, comma-separated: billing@example.com, @example.com for all of a domain, or * for any; not set, none."`
	// Templates is a folder with NAME.html and NAME.txt, read once at start.
	// Empty means no templates.
	Templates string `envconfig:"TEMPLATES" desc:"A folder with NAME.html and NAME.txt, the templates of the mails."`
}

// Validate reads the templates. The error names every fault of c.
func (c *Config) Validate(registry.Queue) error {
	_, err := loadTemplates(c.Templates)
	return errors.Join(c.mail().Validate(), err)
}

// Open returns the processor of a queue. It is an [io.Closer], which closes the kept
// connections.
func (c *Config) Open(q registry.Queue, log *slog.Logger) (consumer.Processor, error) {
	templates, err := loadTemplates(c.Templates)
	if err != nil {
		return nil, err
	}
	sender, err := c.mail().Open(q.Concurrency, log.With("queue", q.Name))
	if err != nil {
		return nil, err
	}
	return &processor{templates, sender}, nil
}

// Check greets the server and logs in, and sends nothing.
func (c *Config) Check(ctx context.Context, _ registry.Queue) (string, error) {
	return c.mail().Check(ctx)
}

func (c *Config) mail() mail.Config {
	return mail.Config{SMTPURL: c.SMTPURL, Maildir: c.Maildir, From: c.From, FromAllowed: c.FromAllowed}
}

var _ registry.Checker = (*Config)(nil)

type processor struct {
	templates templates
	sender    *mail.Sender
}

var (
	_ consumer.Processor = (*processor)(nil)
	_ io.Closer          = (*processor)(nil)
)

// A message is the body of a delivery. Other fields are refused: a mail must not go out
// without its attachment because of a slip in a name.
type message struct {
	To          mail.List         `json:"to"`
	Cc          mail.List         `json:"cc"`
	Bcc         mail.List         `json:"bcc"`
	From        string            `json:"from"`
	ReplyTo     mail.List         `json:"reply_to"`
	Subject     string            `json:"subject"`
	Template    string            `json:"template"`
	Data        strictjson.Values `json:"data"`
	Text        string            `json:"text"`
	HTML        string            `json:"html"`
	Attachments []mail.Attachment `json:"attachments"`
}

const messageFields = "to, cc, bcc, from, reply_to, subject, template, data, text, html, attachments [name, content_type, content]"

// Process sends the mail that the body of d describes. The result is a JSON object
// with message_id and recipients, their number.
func (p *processor) Process(ctx context.Context, d consumer.Delivery, scope *consumer.Scope) error {
	var msg message
	if err := strictjson.Body(d, &msg, messageFields); err != nil {
		return err
	}
	c, err := p.content(ctx, &msg)
	if err != nil {
		return err
	}
	sent, err := p.sender.Send(ctx, d, &mail.Message{
		From: msg.From, To: msg.To, Cc: msg.Cc, Bcc: msg.Bcc, ReplyTo: msg.ReplyTo,
		Subject: c.subject, Text: c.text, HTML: c.html, Attachments: msg.Attachments,
	})
	if err != nil {
		return err
	}
	scope.Logger().Debug("mail sent", "mail_id", sent.MessageID, "recipients", sent.Recipients)
	body, err := json.Marshal(sent)
	if err != nil {
		return err
	}
	scope.SetResult(consumer.Result{Body: body})
	return nil
}

// content is what msg says itself or its template makes of its data.
func (p *processor) content(ctx context.Context, msg *message) (rendered, error) {
	c := rendered{text: msg.Text, html: msg.HTML}
	switch {
	case msg.Template != "" && (msg.Text != "" || msg.HTML != ""):
		return c, consumer.Permanent(errors.New("template is set together with text or html: remove one of them"))
	case msg.Template == "" && msg.Data != nil:
		return c, consumer.Permanent(errors.New("data is set without template: name the template that it is for"))
	case msg.Template == "" && msg.Text == "" && msg.HTML == "":
		return c, consumer.Permanent(errors.New("the mail has no content: set template, text or html"))
	case msg.Template != "":
		var err error
		if c, err = p.templates.render(ctx, msg.Template, msg.Data); err != nil {
			return c, err
		}
	}
	if msg.Subject != "" {
		c.subject = msg.Subject
	}
	if c.subject == "" {
		return c, consumer.Permanent(errors.New(`subject is empty: set it, or define it in the template with {{define "subject"}}`))
	}
	return c, nil
}

// Close closes the kept connections. No Process may be under way.
func (p *processor) Close() error { return p.sender.Close() }
