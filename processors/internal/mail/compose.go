package mail

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	netmail "net/mail"
	"path/filepath"
	"slices"
	"strings"

	gomail "github.com/wneessen/go-mail"

	"github.com/warrenmq/warren/consumer"
)

// A Message is what a mail is composed of. The errors about it call its parts by the
// names that they have in JSON.
type Message struct {
	From        string // empty: the configured one
	To, Cc, Bcc List
	ReplyTo     List
	Subject     string
	Text, HTML  string // one of them may be empty
	Attachments []Attachment
}

// An Attachment is a file that goes with a mail.
type Attachment struct {
	Name        string `json:"name"`
	ContentType string `json:"content_type"` // empty: by the name
	Content     []byte `json:"content"`
}

const (
	maxSubjectBytes = 900 // unfolded, it must fit into the 998 bytes of a line
	maxNameBytes    = 255
	// maxRecipients is more than most servers take, and little enough to be read in no time.
	maxRecipients = 1000
	maxLineBytes  = 998 // RFC 5322, without its end
)

// A mail is ready to be sent.
type mail struct {
	id         string   // its Message-ID, without angle brackets
	from       string   // of the envelope, as are the recipients
	recipients []string // each once
	eightBit   bool     // not all of it is ASCII
	pieces     []io.WriterTo
}

// WriteTo writes header and body, in lines that end with CRLF. An attachment is
// encoded while it is written: encoded, it is never in memory.
func (m *mail) WriteTo(w io.Writer) (written int64, err error) {
	for _, p := range m.pieces {
		n, err := p.WriteTo(w)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// compose makes the mail that msg describes. Every error is the message's fault.
func (s *Sender) compose(d consumer.Delivery, msg *Message) (*mail, error) {
	from := s.from
	if msg.From != "" {
		var err error
		if from, err = parseAddress(msg.From); err != nil {
			return nil, fmt.Errorf("from: %w", err)
		}
		if !s.allowed.allow(from) {
			return nil, fmt.Errorf("from is %s, and mails of this queue may come from %s only: leave it out, or add it to FROM_ALLOWED", from.Address, s.allowed)
		}
	}
	subject, err := readSubject(msg.Subject)
	if err != nil {
		return nil, err
	}
	if msg.Text == "" && msg.HTML == "" {
		return nil, errors.New("the mail has no content: it needs a text, an HTML or both")
	}
	m := &mail{id: messageID(d, from), from: from.Address}
	out := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	out.SetMessageIDWithValue(m.id)
	out.FromMailAddress(from)
	out.Subject(subject)
	if err := m.address(out, msg); err != nil {
		return nil, err
	}
	if msg.Text != "" {
		out.SetBodyString(gomail.TypeTextPlain, msg.Text)
	}
	if msg.HTML != "" {
		out.AddAlternativeString(gomail.TypeTextHTML, msg.HTML)
	}
	return m, m.write(out, msg.Attachments)
}

func readSubject(subject string) (string, error) {
	if err := plainText(subject); err != nil {
		return "", fmt.Errorf("subject %w", err)
	}
	subject = collapsed(subject)
	switch {
	case subject == "":
		return "", errors.New("subject is empty: every mail needs one")
	case len(subject) > maxSubjectBytes:
		return "", fmt.Errorf("subject has %d bytes: shorten it to %d", len(subject), maxSubjectBytes)
	}
	return subject, nil
}

// address reads the lists of msg into the header and the envelope.
func (m *mail) address(out *gomail.Msg, msg *Message) error {
	if n := len(msg.To.values) + len(msg.Cc.values) + len(msg.Bcc.values); n > maxRecipients {
		return fmt.Errorf("to, cc and bcc have %d recipients, and a mail may have %d: spread them over several messages", n, maxRecipients)
	}
	if n := len(msg.ReplyTo.values); n > maxRecipients {
		return fmt.Errorf("reply_to has %d addresses, and may have %d: shorten it", n, maxRecipients)
	}
	seen := make(map[string]bool)
	for _, f := range []struct {
		name      string
		list      *List
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
			return err
		}
		if len(addresses) > 0 {
			out.SetAddrHeaderFromMailAddress(f.header, addresses...)
		}
		for _, a := range addresses {
			if f.recipient && !seen[a.Address] {
				seen[a.Address] = true
				m.recipients = append(m.recipients, a.Address)
			}
		}
	}
	if len(m.recipients) == 0 {
		return errors.New("to, cc and bcc are all empty: name a recipient")
	}
	return nil
}

// write makes the pieces of m. go-mail has every part in memory twice while it writes
// it, so that it is given a mark for each attachment, in place of which that is put.
func (m *mail) write(out *gomail.Msg, attachments []Attachment) error {
	marks := make([]string, len(attachments))
	contents := make([]io.WriterTo, len(attachments))
	for i, a := range attachments {
		part, err := newPart(a)
		if err != nil {
			return fmt.Errorf("attachments[%d].%w", i, err)
		}
		m.eightBit = m.eightBit || part.encoding == "8bit"
		marks[i], contents[i] = rand.Text()[:24], part.content // which is base64 of 18 bytes
		mark, err := base64.StdEncoding.DecodeString(marks[i])
		if err != nil {
			return err
		}
		out.AttachReadSeeker(a.Name, bytes.NewReader(mark), func(f *gomail.File) {
			f.Header.Set("Content-Type", part.contentType)
			f.Header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": a.Name}))
			f.Header.Set("Content-Transfer-Encoding", part.encoding)
		})
	}
	if m.eightBit {
		out.SetGenHeader("Content-Transfer-Encoding", "8bit") // what holds an 8-bit part is 8-bit itself
	}
	var buf bytes.Buffer
	if _, err := out.WriteTo(&buf); err != nil {
		return fmt.Errorf("write the mail: %w", err)
	}
	rest := buf.Bytes()
	for i, mark := range marks {
		before, after, found := bytes.Cut(rest, []byte(mark+"\r\n"))
		if !found {
			return fmt.Errorf("write the mail: no place for attachments[%d]", i)
		}
		m.pieces = append(m.pieces, plain(before), contents[i])
		rest = after
	}
	m.pieces = append(m.pieces, plain(rest))
	return nil
}

// A part is an attachment as it is written.
type part struct {
	contentType, encoding string
	content               io.WriterTo
}

// newPart reads a. It makes the two headers that name the file itself: where go-mail
// would replace or encode characters of the name in a way of its own, MIME has a
// standard.
func newPart(a Attachment) (part, error) {
	if err := plainText(a.Name); err != nil {
		return part{}, fmt.Errorf("name %w", err)
	}
	if a.Name == "" || len(a.Name) > maxNameBytes || strings.ContainsAny(a.Name, `/\`) {
		return part{}, fmt.Errorf("name is %q: it must be a file's name without a path, of 1 to %d bytes", a.Name, maxNameBytes)
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
		return part{}, fmt.Errorf("content_type is %q: it must be a media type such as application/pdf, and not multipart", a.ContentType)
	}
	// A message within a message may not be encoded (RFC 2046, 5.2.1), but for one
	// whose header is not ASCII (RFC 6532).
	if !strings.HasPrefix(mediaType, "message/") || strings.HasPrefix(mediaType, "message/global") {
		return part{contentType, "base64", encoded(a.Content)}, nil
	}
	for line := range bytes.Lines(a.Content) {
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) > maxLineBytes || bytes.ContainsAny(line, "\r\x00") {
			return part{}, fmt.Errorf("content is no %s: it has a line of more than %d bytes, a lone CR or a zero byte; set content_type to application/octet-stream", mediaType, maxLineBytes)
		}
	}
	if slices.ContainsFunc(a.Content, func(b byte) bool { return b >= 0x80 }) {
		return part{contentType, "8bit", lines(a.Content)}, nil
	}
	return part{contentType, "7bit", lines(a.Content)}, nil
}

// plain is written as it is.
type plain []byte

func (p plain) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(p)
	return int64(n), err
}

// lines are written with CRLF at the end of each.
type lines []byte

func (l lines) WriteTo(w io.Writer) (written int64, err error) {
	for line := range bytes.Lines(l) {
		text, ended := bytes.CutSuffix(line, []byte("\n"))
		text = bytes.TrimSuffix(text, []byte("\r"))
		n, err := w.Write(text)
		written += int64(n)
		if err == nil && ended {
			n, err = io.WriteString(w, "\r\n")
			written += int64(n)
		}
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// encoded is written as base64, in the lines of 76 characters that MIME allows.
type encoded []byte

func (e encoded) WriteTo(w io.Writer) (written int64, err error) {
	const lineBytes, linesAtOnce = 57, 256
	out := make([]byte, 0, linesAtOnce*(76+2))
	for some := range slices.Chunk(e, linesAtOnce*lineBytes) {
		out = out[:0]
		for line := range slices.Chunk(some, lineBytes) {
			out = base64.StdEncoding.AppendEncode(out, line)
			out = append(out, "\r\n"...)
		}
		n, err := w.Write(out)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// messageID is the same whenever d is delivered again. The body is part of it, since two
// messages may have one message-id, and in a Maildir the second mail would replace the first.
func messageID(d consumer.Delivery, from *netmail.Address) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q ", d.Queue, d.MessageID) // quoted, no id can look like the beginning of a body
	h.Write(d.Body)
	domain := from.Address[strings.LastIndexByte(from.Address, '@')+1:]
	return hex.EncodeToString(h.Sum(nil)[:16]) + "@" + strings.Trim(domain, "[]")
}
