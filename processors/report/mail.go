package report

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/email"
	"github.com/warrenmq/warren/processors/registry"
)

// A mailRequest is what a message says of the mail. Its addresses are for the email
// processor to read.
type mailRequest struct {
	To      json.RawMessage `json:"to,omitempty"`
	Cc      json.RawMessage `json:"cc,omitempty"`
	Bcc     json.RawMessage `json:"bcc,omitempty"`
	ReplyTo json.RawMessage `json:"reply_to,omitempty"`
	Subject string          `json:"subject"`
	Text    string          `json:"text"`
}

// A mailer sends reports as the email processor would that gets them as a message.
type mailer struct {
	email consumer.Processor
	max   int64 // bytes of an attachment
}

// mail is what the mails of the queue are made from; nil: it sends none.
func (c *Config) mail() *email.Config {
	if c.SMTPURL == "" && c.Maildir == "" && c.From == "" {
		return nil
	}
	return &email.Config{SMTPURL: c.SMTPURL, Maildir: c.Maildir, From: c.From}
}

// newMailer returns nil if the queue has none.
func newMailer(c *Config, q registry.Queue, log *slog.Logger) (*mailer, error) {
	mail := c.mail()
	if mail == nil {
		return nil, nil
	}
	p, err := mail.Open(q, log)
	if err != nil {
		return nil, err
	}
	return &mailer{p, c.AttachmentMaxBytes}, nil
}

// mailed is a report that is to be mailed.
type mailed struct {
	report  string
	format  format
	made    result
	content []byte // nil: too large
}

type attachment struct {
	Name        string `json:"name"`
	ContentType string `json:"content_type"`
	Content     []byte `json:"content"`
}

// send sends a mail with the report, or where it is. The same delivery makes a mail
// with the same Message-ID each time.
func (m *mailer) send(ctx context.Context, d consumer.Delivery, request *mailRequest, r mailed, scope *consumer.Scope) error {
	mail := struct {
		mailRequest
		Attachments []attachment `json:"attachments,omitempty"`
	}{mailRequest: *request}
	if mail.Subject == "" {
		mail.Subject = "Report " + r.report
	}
	if mail.Text != "" {
		mail.Text += "\n\n"
	}
	if r.content != nil {
		name := r.report + r.format.extension
		mail.Text += fmt.Sprintf("The report %s has %d rows. It is attached: %s\n", r.report, r.made.Rows, name)
		mail.Attachments = []attachment{{name, r.format.contentType, r.content}}
	} else {
		mail.Text += fmt.Sprintf("The report %s has %d rows. It is too large for a mail, and is at %s\n", r.report, r.made.Rows, r.made.Location)
	}
	body, err := json.Marshal(mail)
	if err != nil {
		return err
	}
	d.Body = body
	return m.email.Process(ctx, d, scope)
}

// Close ends the kept connections.
func (m *mailer) Close() error { return m.email.(io.Closer).Close() }
