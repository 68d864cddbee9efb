package report

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A parsed mail is what its reader sees.
type parsed struct {
	header mail.Header
	text   string
	files  map[string]string // content by name
}

// mails are those in a Maildir.
func mails(t *testing.T, dir string) (all []parsed) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := mail.ReadMessage(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		p := parsed{header: m.Header, files: map[string]string{}}
		mediaType, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(mediaType, "multipart/") {
			text, err := io.ReadAll(m.Body)
			if err != nil {
				t.Fatal(err)
			}
			p.text = string(text)
			all = append(all, p)
			continue
		}
		for r := multipart.NewReader(m.Body, params["boundary"]); ; {
			part, err := r.NextPart() // which decodes quoted-printable
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			var body io.Reader = part
			if part.Header.Get("Content-Transfer-Encoding") == "base64" {
				body = base64.NewDecoder(base64.StdEncoding, part)
			}
			content, err := io.ReadAll(body)
			if err != nil {
				t.Fatal(err)
			}
			if part.FileName() != "" {
				p.files[part.FileName()] = string(content)
			} else {
				p.text = string(content)
			}
		}
		all = append(all, p)
	}
	return all
}

func TestMail(t *testing.T) {
	source := sqliteURL(t)
	execute(t, source, "CREATE TABLE here (n int)")
	files := reports(t, map[string]string{"sales": "SELECT 1 AS n", "large": manyRows})
	for name, test := range map[string]struct {
		body, subject, text string
		attached            bool
	}{
		"attached": {`{"report": "sales", "mail": {"to": "Ada <ada@example.com>", "cc": ["bob@example.com"], "subject": "Yours", "text": "Dear Ada,"}}`,
			"Yours", "Dear Ada,\n\nThe report sales has 1 rows. It is attached: sales.csv", true},
		"too large": {`{"report": "large", "mail": {"to": "ada@example.com"}}`, "Report large", "The report large has 100000 rows. It is too large for a mail, and is at ", false},
	} {
		t.Run(name, func(t *testing.T) {
			maildir := t.TempDir()
			p := newProcessor(t, Config{Reports: files, SourceURL: source, Output: t.TempDir(), Maildir: maildir, From: "shop@example.com"})
			r, content := made(t, p, test.body)
			made(t, p, test.body) // a repeat
			all := mails(t, maildir)
			if len(all) != 1 {
				t.Fatalf("got %d mails, want 1: a repeat has the same Message-ID", len(all))
			}
			m := all[0]
			if m.header.Get("Subject") != test.subject || !strings.Contains(m.text, test.text) {
				t.Errorf("got %q and %q\nwant %q and %q", m.header.Get("Subject"), m.text, test.subject, test.text)
			}
			switch {
			case test.attached && (len(m.files) != 1 || m.files["sales.csv"] != content):
				t.Errorf("got attachments %q, want sales.csv with %q", m.files, content)
			case !test.attached && (len(m.files) != 0 || !strings.Contains(strings.ReplaceAll(m.text, "=\n", ""), r.Location)):
				t.Errorf("got attachments %q and %q, want only the location %s", m.files, m.text, r.Location)
			}
		})
	}
}

func TestMailThatCannotBeSent(t *testing.T) {
	source := sqliteURL(t)
	execute(t, source, "CREATE TABLE here (n int)")
	files := reports(t, map[string]string{"sales": "SELECT 1 AS n"})
	p := newProcessor(t, Config{Reports: files, SourceURL: source, Output: t.TempDir(), SMTPURL: "smtp://127.0.0.1:1?tls=none", From: "shop@example.com"})
	_, err := process(t.Context(), p, `{"report": "sales", "mail": {"to": "ada@example.com"}}`)
	check(t, err, "unavailable", "mail the report at ", "/sales-", "connection refused")
	_, err = process(t.Context(), p, `{"report": "sales", "mail": {"to": "ada"}}`)
	check(t, err, "dead", "mail the report at ", `"ada" is not an address`)
	_, err = process(t.Context(), p, `{"report": "sales", "mail": {}}`)
	check(t, err, "dead", "name a recipient")
	_, err = process(t.Context(), p, `{"report": "sales", "mail": {"to": "ada@example.com", "attachments": []}}`)
	check(t, err, "dead", `"mail.attachments"`, "to, cc, bcc, reply_to, subject, text")
}
