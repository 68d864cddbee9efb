package mail

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/disk"
)

// written is m as it is sent.
func written(t testing.TB, s *Sender, m *Message) []byte {
	t.Helper()
	composed, err := s.compose(consumer.Delivery{Queue: "emails", MessageID: "1"}, m)
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	n, err := composed.WriteTo(&first)
	if err != nil || n != int64(first.Len()) {
		t.Fatalf("got %d bytes of %d (error %v)", n, first.Len(), err)
	}
	if _, err := composed.WriteTo(&second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Fatalf("written again it differs (error %v)", err)
	}
	return first.Bytes()
}

// A partOf a mail is one of its parts as it was sent.
type partOf struct {
	header  map[string][]string
	content []byte // as it stands there
}

// partsOf returns the header of a mail and its parts, by the names of their files.
func partsOf(t testing.TB, content []byte) (netmail.Header, map[string]partOf) {
	t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]partOf{}
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return m.Header, parts
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		parts[p.FileName()] = partOf{p.Header, raw}
	}
}

func TestAttachmentsOfEverySize(t *testing.T) {
	s := newSender(t, Config{Maildir: t.TempDir()})
	m := &Message{To: to("a@b.c"), Subject: "x", Text: "x"}
	var want [][]byte
	for _, size := range []int{0, 1, 56, 57, 58, 113, 114, 57*256 - 1, 57 * 256, 57*256 + 1} {
		content := bytes.Repeat([]byte{0xff, 0, 7}, size/3+1)[:size]
		want = append(want, content)
		m.Attachments = append(m.Attachments, Attachment{Name: strings.Repeat("x", len(want)) + ".bin", Content: content})
	}
	_, parts := partsOf(t, written(t, s, m))
	for i, content := range want {
		p := parts[m.Attachments[i].Name]
		got, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(p.content)))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: got %d (error %v)", len(content), len(got), err)
		}
		for line := range strings.SplitSeq(string(p.content), "\r\n") {
			if len(line) > 76 || strings.ContainsAny(line, "\r\n") {
				t.Errorf("%d bytes: got line %q", len(content), line)
			}
		}
	}
}

// RFC 2046, 5.2.1: a message within a message is 7bit or 8bit, and then (RFC 2045, 6.4)
// so is what holds it.
func TestAttachedMessage(t *testing.T) {
	s := newSender(t, Config{Maildir: t.TempDir()})
	for name, test := range map[string]struct{ contentType, content, encoding, want string }{
		"ASCII":          {"message/rfc822", "Subject: x\nTo: a@b.c\n\nHello\n", "7bit", "Subject: x\r\nTo: a@b.c\r\n\r\nHello\r\n"},
		"without an end": {"message/rfc822", "Subject: x\r\n\r\n.\r\n..\r\nHello", "7bit", "Subject: x\r\n\r\n.\r\n..\r\nHello"},
		"UTF-8":          {"message/rfc822", "Subject: x\r\n\r\nGrüße\r\n", "8bit", "Subject: x\r\n\r\nGrüße\r\n"},
		"a report":       {"message/delivery-status", "Reporting-MTA: dns; x\n", "7bit", "Reporting-MTA: dns; x\r\n"},
		"international":  {"message/global", "Subject: ü\n", "base64", "U3ViamVjdDogw7wK\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			header, parts := partsOf(t, written(t, s, &Message{To: to("a@b.c"), Subject: "x", Text: "x",
				Attachments: []Attachment{{"m.eml", test.contentType, []byte(test.content)}, {"b.bin", "", []byte("x")}}}))
			p := parts["m.eml"]
			if got := p.header["Content-Transfer-Encoding"]; len(got) != 1 || got[0] != test.encoding || string(p.content) != test.want {
				t.Errorf("got %q and %q, want %s and %q", got, p.content, test.encoding, test.want)
			}
			if got, want := header.Get("Content-Transfer-Encoding"), map[bool]string{true: "8bit"}[test.encoding == "8bit"]; got != want {
				t.Errorf("got the encoding %q of the mail, want %q", got, want)
			}
		})
	}
	for name, content := range map[string]string{"a long line": strings.Repeat("x", 999), "a zero": "a\x00b", "a lone CR": "a\rb\n"} {
		err := send(t.Context(), s, "1", &Message{To: to("a@b.c"), Subject: "x", Text: "x", Attachments: []Attachment{{"m.eml", "message/rfc822", []byte(content)}}})
		if err == nil {
			t.Errorf("%s: got no error", name)
			continue
		}
		checkVerdict(t, err, "dead", "attachments[0].content is no message/rfc822", "application/octet-stream")
	}
}

func TestAttachedMessageAndTheServer(t *testing.T) {
	eight := &Message{To: to("a@b.c"), Subject: "x", Text: "x", Attachments: []Attachment{{"m.eml", "message/rfc822", []byte("Subject: x\n\nGrüße\n.\n")}}}
	s := newServer(t, false, nil, false) // which offers 8BITMIME
	p := newSender(t, Config{SMTPURL: plainURL(s)})
	checkVerdict(t, send(t.Context(), p, "1", eight), "ack")
	if got := s.received(); len(got) != 1 || !bytes.Contains(got[0].content, []byte("\r\n\r\nGrüße\r\n.\r\n")) {
		t.Errorf("got %q, want the attached message as it is", got)
	}

	s = newServer(t, false, nil, false)
	s.setFault(func(_ int, command string) string {
		if strings.HasPrefix(command, "EHLO") {
			return "250 mail.test"
		}
		return ""
	})
	p = newSender(t, Config{SMTPURL: plainURL(s)})
	checkVerdict(t, send(t.Context(), p, "1", eight), "dead", "8BITMIME", "application/octet-stream")
}

// A mail is not in memory as it is sent, but for what is not an attachment.
func TestComposeDoesNotCopyAttachments(t *testing.T) {
	s := newSender(t, Config{Maildir: t.TempDir()})
	m := &Message{To: to("a@b.c"), Subject: "x", Text: "x", Attachments: []Attachment{{"x.bin", "", make([]byte, 16<<20)}}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := send(t.Context(), s, "1", m); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(2<<20); got > most {
		t.Errorf("%d bytes were allocated, want at most %d", got, most)
	}
}

func TestRecipientsAreBounded(t *testing.T) {
	many := func(name string, n int) List {
		var l List
		for i := range n {
			l.values = append(l.values, fmt.Sprintf("%s%d@b.c", name, i))
		}
		return l
	}
	s := newSender(t, Config{Maildir: t.TempDir()})
	for name, test := range map[string]struct {
		m       Message
		verdict string
		texts   []string
	}{
		"as many as may be":        {Message{To: many("a", 400), Cc: many("b", 300), Bcc: many("c", 300), ReplyTo: to("a@b.c")}, "ack", nil},
		"one too many":             {Message{To: many("a", 1001)}, "dead", []string{"1001 recipients", "1000"}},
		"one too many, all in all": {Message{To: many("a", 400), Cc: many("b", 300), Bcc: many("c", 301)}, "dead", []string{"1001 recipients", "1000"}},
		"not even looked at":       {Message{Bcc: List{values: make([]string, 1_000_000)}}, "dead", []string{"1000000 recipients", "1000"}},
		"to be answered to":        {Message{To: to("a@b.c"), ReplyTo: many("a", 1001)}, "dead", []string{"reply_to", "1001", "1000"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.m.Subject, test.m.Text = "x", "x"
			checkVerdict(t, send(t.Context(), s, "1", &test.m), test.verdict, test.texts...)
		})
	}
}

// Who is named twice gets one mail.
func TestRecipientsAreDistinct(t *testing.T) {
	s := newSender(t, Config{Maildir: t.TempDir()})
	sent, err := s.Send(t.Context(), consumer.Delivery{}, &Message{To: to("a@b.c", "A <a@b.c>", "d@e.f"), Bcc: to("a@b.c", "g@h.i"), Subject: "x", Text: "x"})
	if err != nil || sent.Recipients != 3 {
		t.Errorf("got %d recipients (error %v), want 3", sent.Recipients, err)
	}
}

func TestFullDiskOfAMaildir(t *testing.T) {
	s := newSender(t, Config{Maildir: t.TempDir()})
	m, err := s.compose(consumer.Delivery{}, hello)
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	checkVerdict(t, disk.Verdict(writeDelivered(full, m)), "unavailable", "no space left on device")
}

// TestTheRemediesOfAMailCure follows what the errors say of its attachments and addresses.
func TestTheRemediesOfAMailCure(t *testing.T) {
	s := newServer(t, false, nil, false)
	p := newSender(t, Config{SMTPURL: plainURL(s)})
	attached := func(mediaType string) *Message {
		return &Message{To: to("a@b.c"), Subject: "x", Text: "x", Attachments: []Attachment{{"m.eml", mediaType, []byte("a\x00b")}}}
	}
	checkVerdict(t, send(t.Context(), p, "1", attached("message/rfc822")), "dead", "set content_type to application/octet-stream")
	checkVerdict(t, send(t.Context(), p, "1", attached("application/octet-stream")), "ack")

	addressed := func(address string) *Message { return &Message{To: to(address), Subject: "x", Text: "x"} }
	checkVerdict(t, send(t.Context(), p, "2", addressed("ada@grüße.example")), "dead", "write an international domain in its xn-- form")
	checkVerdict(t, send(t.Context(), p, "2", addressed("ada@xn--gre-6ka8l.example")), "ack")
}
