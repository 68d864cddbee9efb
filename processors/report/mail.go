package report

import (
	"context"
	"fmt"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/mail"
)

// A mailRequest is what a message says of the mail.
type mailRequest struct {
	To      mail.List `json:"to"`
	Cc      mail.List `json:"cc"`
	Bcc     mail.List `json:"bcc"`
	ReplyTo mail.List `json:"reply_to"`
	Subject string    `json:"subject"`
	Text    string    `json:"text"`
}

// mailed is a report that is to be mailed.
type mailed struct {
	report  string
	format  format
	made    result
	content []byte // nil: too large
}

// send sends a mail with the report, or where it is. The same delivery makes a mail
// with the same Message-ID each time.
func (p *processor) send(ctx context.Context, d consumer.Delivery, request *mailRequest, r mailed) error {
	m := &mail.Message{
		To: request.To, Cc: request.Cc, Bcc: request.Bcc, ReplyTo: request.ReplyTo,
		Subject: request.Subject, Text: request.Text,
	}
	if m.Subject == "" {
		m.Subject = "Report " + r.report
	}
	if m.Text != "" {
		m.Text += "\n\n"
	}
	if r.content != nil {
		name := r.report + r.format.extension
		m.Text += fmt.Sprintf("The report %s has %d rows. It is attached: %s\n", r.report, r.made.Rows, name)
		m.Attachments = []mail.Attachment{{Name: name, ContentType: r.format.contentType, Content: r.content}}
	} else {
		m.Text += fmt.Sprintf("The report %s has %d rows. It is too large for a mail, and is at %s\n", r.report, r.made.Rows, r.made.Location)
	}
	_, err := p.sender.Send(ctx, d, m)
	return err
}
