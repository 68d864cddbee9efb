package email

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	netmail "net/mail"
	"path/filepath"
	"slices"
	"strings"

	gomail "github.com/wneessen/go-mail"

	"github.com/warrenmq/warren/consumer"
)

// A mail is ready to be sent.
type mail struct {
	id         string   // its Message-ID, without angle brackets
	from       string   // of the envelope, as are the recipients
	recipients []string // each once
	content    []byte   // header and body, lines end with CRLF
}

// compose makes the mail that msg describes. Every error is the message's fault.
func (p *processor) compose(d consumer.Delivery, msg *message) (*mail, error) {
	from := p.from
	if msg.From != "" {
		var err error
		if from, err = parseAddress(msg.From); err != nil {
			return nil, fmt.Errorf("from: %w", err)
		}
	}
	content, err := p.content(msg)
	if err != nil {
		return nil, err
	}
	m := &mail{id: messageID(d, from), from: from.Address}

	out := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	out.SetMessageIDWithValue(m.id)
	out.FromMailAddress(from)
	for _, f := range []struct {
		name      string
		list      *list
		header    gomail.AddrHeader
		recipient bool
	}{
		{"to", &msg.To, gomail.HeaderTo, true},
		{"cc", &msg.Cc, gomail.HeaderCc, true},
		{"bcc", &msg.Bcc, gomail.HeaderBcc, true}, // go-mail does not write it
		{"reply_to", &msg.ReplyTo, gomail.HeaderReplyTo, false},
	} {
		addresses, err := f.list.addresses(f.name)
		if err != nil {
			return nil, err
		}
		if len(addresses) > 0 {
			out.SetAddrHeaderFromMailAddress(f.header, addresses...)
		}
		for _, a := range addresses {
			if f.recipient && !slices.Contains(m.recipients, a.Address) {
				m.recipients = append(m.recipients, a.Address)
			}
		}
	}
	if len(m.recipients) == 0 {
		return nil, errors.New("to, cc and bcc are all empty: name a recipient")
	}
	out.Subject(content.subject)
	if content.text != "" {
		out.SetBodyString(gomail.TypeTextPlain, content.text)
	}
	if content.html != "" {
		out.AddAlternativeString(gomail.TypeTextHTML, content.html)
	}
	for i, a := range msg.Attachments {
		if err := attach(out, a); err != nil {
			return nil, fmt.Errorf("attachments[%d].%w", i, err)
		}
	}
	var buf bytes.Buffer
	if _, err := out.WriteTo(&buf); err != nil {
		return nil, fmt.Errorf("write the mail: %w", err)
	}
	m.content = buf.Bytes()
	return m, nil
}

// content is what msg says itself or its template makes of its data.
func (p *processor) content(msg *message) (rendered, error) {
	c := rendered{text: msg.Text, html: msg.HTML}
	switch {
	case msg.Template != "" && (msg.Text != "" || msg.HTML != ""):
		return c, errors.New("template is set together with text or html: remove one of them")
	case msg.Template == "" && msg.Data != nil:
		return c, errors.New("data is set without template: name the template that it is for")
	case msg.Template != "":
		var err error
		if c, err = p.templates.render(msg.Template, msg.Data); err != nil {
			return c, err
		}
	}
	if c.text == "" && c.html == "" {
		return c, errors.New("the mail has no content: set template, text or html")
	}
	if msg.Subject != "" {
		c.subject = msg.Subject
	}
	if err := plainText(c.subject); err != nil {
		return c, fmt.Errorf("subject %w", err)
	}
	c.subject = collapsed(c.subject)
	switch {
	case c.subject == "":
		return c, errors.New(`subject is empty: set it, or define it in the template with {{define "subject"}}`)
	case len(c.subject) > maxSubjectBytes:
		return c, fmt.Errorf("subject has %d bytes: shorten it to %d", len(c.subject), maxSubjectBytes)
	}
	return c, nil
}

// attach adds a to out. It writes the two headers that name the file itself: where
// go-mail would replace or encode characters of the name in a way of its own, MIME
// has a standard.
func attach(out *gomail.Msg, a attachment) error {
	if err := plainText(a.Name); err != nil {
		return fmt.Errorf("name %w", err)
	}
	if a.Name == "" || len(a.Name) > maxNameBytes || strings.ContainsAny(a.Name, `/\`) {
		return fmt.Errorf("name is %q: it must be a file's name without a path, of 1 to %d bytes", a.Name, maxNameBytes)
	}
	given := a.ContentType
	if given == "" {
		given = mime.TypeByExtension(filepath.Ext(a.Name))
	}
	if given == "" {
		given = "application/octet-stream"
	}
	mediaType, params, err := mime.ParseMediaType(given)
	contentType := mime.FormatMediaType(mediaType, params)
	if err != nil || contentType == "" || len(contentType) > maxNameBytes || !strings.Contains(mediaType, "/") || strings.HasPrefix(mediaType, "multipart/") {
		return fmt.Errorf("content_type is %q: it must be a media type such as application/pdf, and not multipart", a.ContentType)
	}
	out.AttachReadSeeker(a.Name, bytes.NewReader(a.Content), func(f *gomail.File) {
		f.Header.Set("Content-Type", contentType)
		f.Header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": a.Name}))
	})
	return nil
}

// messageID is the same whenever d is delivered again.
func messageID(d consumer.Delivery, from *netmail.Address) string {
	h := sha256.New()
	if d.MessageID != "" {
		fmt.Fprintf(h, "%s\x00id\x00%s", d.Queue, d.MessageID)
	} else {
		fmt.Fprintf(h, "%s\x00body\x00%s", d.Queue, d.Body)
	}
	domain := from.Address[strings.LastIndexByte(from.Address, '@')+1:]
	return hex.EncodeToString(h.Sum(nil)[:16]) + "@" + strings.Trim(domain, "[]")
}
