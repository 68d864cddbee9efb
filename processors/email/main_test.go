package email

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newProcessor makes the processor of a queue emails, and closes it in the end.
func newProcessor(t testing.TB, cfg Config) *processor {
	t.Helper()
	if cfg.From == "" {
		cfg.From = "Shop <shop@example.com>"
	}
	p, err := cfg.Open(registry.Queue{Name: "emails", Concurrency: 8}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("new processor: got error %v, want none", err)
	}
	t.Cleanup(func() {
		if err := p.(io.Closer).Close(); err != nil {
			t.Errorf("close: got error %v, want none", err)
		}
	})
	return p.(*processor)
}

// delivery is one of queue emails with that body, marshalled unless it is text.
func delivery(t testing.TB, id string, body any) consumer.Delivery {
	t.Helper()
	d := consumer.Delivery{Queue: "emails", MessageID: id, Attempt: 1}
	if text, ok := body.(string); ok {
		d.Body = []byte(text)
		return d
	}
	var err error
	if d.Body, err = json.Marshal(body); err != nil {
		t.Fatal(err)
	}
	return d
}

// checkVerdict says what is wrong with err, which should lead to the verdict, and
// hold each of the texts.
func checkVerdict(t testing.TB, err error, verdict string, texts ...string) {
	t.Helper()
	if got := consumertest.Verdict(err); got != verdict {
		t.Errorf("got verdict %q (%v), want %q", got, err, verdict)
	}
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got error %v, want one with %q", err, text)
		}
	}
}

// A parsed mail is what its reader sees.
type parsed struct {
	header      netmail.Header
	subject     string
	text, html  string
	attachments map[string]string // content by name
}

func parseMail(t testing.TB, content []byte) parsed {
	t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		t.Fatalf("the mail cannot be parsed: %v\n%s", err, content)
	}
	p := parsed{header: m.Header, attachments: map[string]string{}}
	if p.subject, err = new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject")); err != nil {
		t.Fatalf("the subject cannot be decoded: %v\n%s", err, content)
	}
	p.part(t, m.Header.Get, m.Body)
	return p
}

func (p *parsed) part(t testing.TB, header func(string) string, body io.Reader) {
	t.Helper()
	mediaType, params, err := mime.ParseMediaType(header("Content-Type"))
	if err != nil {
		t.Fatalf("content type %q: %v", header("Content-Type"), err)
	}
	if strings.HasPrefix(mediaType, "multipart/") {
		for r := multipart.NewReader(body, params["boundary"]); ; {
			part, err := r.NextRawPart()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("next part of %s: %v", mediaType, err)
			}
			p.part(t, part.Header.Get, part)
		}
	}
	switch header("Content-Transfer-Encoding") {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	content, err := io.ReadAll(body)
	if err != nil {
		t.Fatalf("read a part of type %s: %v", mediaType, err)
	}
	disposition, file, err := mime.ParseMediaType(header("Content-Disposition"))
	switch {
	case err == nil && disposition == "attachment":
		p.attachments[file["filename"]] = string(content)
	case mediaType == "text/html":
		p.html = string(content)
	default:
		p.text = string(content)
	}
}
