package email

import (
	"encoding/json"
	"errors"
	netmail "net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/internal/mail"
	"github.com/warrenmq/warren/processors/registry"
)

func TestWholeMail(t *testing.T) {
	dir := t.TempDir()
	p := newProcessor(t, Config{Maildir: dir, FromAllowed: "@shop.example"})
	d := delivery(t, "order-1", map[string]any{
		"to":       []string{"Zoë Ünal <zoe@example.com>", "bob@example.com"},
		"cc":       "carol@example.com",
		"bcc":      []string{"dave@example.com", "bob@example.com"},
		"from":     "Łódź Shop <lodz@shop.example>",
		"reply_to": "help@shop.example",
		"subject":  "Żółw i inne zwierzęta, o których warto wiedzieć więcej niż to, co mieści się w jednej linii",
		"text":     "Grüße\n.\n..leading dots\n",
		"html":     "<p>Grüße &amp; mehr</p>",
		"attachments": []map[string]any{
			{"name": "räksmörgås \"1\".pdf", "content": []byte("%PDF\x00\xff")},
			{"name": "notes.txt", "content_type": "text/plain; charset=utf-8", "content": []byte("ą")},
		},
	})
	answer, err := consumertest.Run(t.Context(), p, d)
	checkVerdict(t, err, "ack")
	m := parseMail(t, onlyMail(t, dir))
	if got, want := m.header["Delivered-To"], []string{"zoe@example.com", "bob@example.com", "carol@example.com", "dave@example.com"}; m.header.Get("Return-Path") != "<lodz@shop.example>" || !slices.Equal(got, want) {
		t.Errorf("got envelope from %s to %v, want from lodz@shop.example to %v", m.header.Get("Return-Path"), got, want)
	}
	if want := "Żółw i inne zwierzęta, o których warto wiedzieć więcej niż to, co mieści się w jednej linii"; m.subject != want {
		t.Errorf("got subject %q, want %q", m.subject, want)
	}
	if want := "Grüße\r\n.\r\n..leading dots\r\n"; strings.ReplaceAll(m.text, "\r\n", "\n") != strings.ReplaceAll(want, "\r\n", "\n") {
		t.Errorf("got text %q, want %q", m.text, want)
	}
	if want := "<p>Grüße &amp; mehr</p>"; m.html != want {
		t.Errorf("got html %q, want %q", m.html, want)
	}
	for name, want := range map[string]string{"räksmörgås \"1\".pdf": "%PDF\x00\xff", "notes.txt": "ą"} {
		if m.attachments[name] != want {
			t.Errorf("got attachment %s with %q, want %q; all are %q", name, m.attachments[name], want, m.attachments)
		}
	}
	to, err := m.header.AddressList("To")
	if err != nil || len(to) != 2 || to[0].Name != "Zoë Ünal" {
		t.Errorf("got To %v (error %v), want Zoë Ünal and bob", to, err)
	}
	for _, name := range []string{"Bcc", "User-Agent", "X-Mailer"} {
		if v, there := m.header[name]; there {
			t.Errorf("got header %s: %q, want none", name, v)
		}
	}
	var r mail.Sent
	if err := json.Unmarshal(answer.Body, &r); err != nil || r.Recipients != 4 || "<"+r.MessageID+">" != m.header.Get("Message-ID") {
		t.Errorf("got result %s (error %v), want 4 recipients and the Message-ID %s", answer.Body, err, m.header.Get("Message-ID"))
	}
}

var hello = map[string]any{"to": "bob@example.com", "subject": "Hello", "text": "Hello, Bob."}

func TestMessageIDIsTheSameForARepeat(t *testing.T) {
	p := newProcessor(t, Config{Maildir: t.TempDir()})
	id := func(d consumer.Delivery) string {
		t.Helper()
		answer, err := consumertest.Run(t.Context(), p, d)
		if err != nil {
			t.Fatal(err)
		}
		var r mail.Sent
		if err := json.Unmarshal(answer.Body, &r); err != nil {
			t.Fatal(err)
		}
		return r.MessageID
	}
	first := delivery(t, "1", hello)
	again := first
	again.Attempt, again.Redelivered = 2, true
	if a, b := id(first), id(again); a != b || !strings.HasSuffix(a, "@example.com") {
		t.Errorf("got %s and for the repeat %s, want the same, at example.com", a, b)
	}
	otherQueue := first
	otherQueue.Queue = "more"
	other := map[string]any{"to": "eve@example.com", "subject": "x", "text": "x"}
	ids := []string{id(first), id(otherQueue), id(delivery(t, "2", hello)), id(delivery(t, "1", other)), id(delivery(t, "", hello)), id(delivery(t, "", other))}
	if distinct := slices.Compact(slices.Sorted(slices.Values(ids))); len(distinct) != len(ids) {
		t.Errorf("got ids %q, want all of them different", ids)
	}
	if a, b := id(delivery(t, "", hello)), id(delivery(t, "", hello)); a != b {
		t.Errorf("got %s and %s for the same body without message-id, want the same", a, b)
	}
}

// Two mails of one message-id, which a publisher has used twice, are two.
func TestMailsOfOneMessageIDAreAllInTheMaildir(t *testing.T) {
	dir := t.TempDir()
	p := newProcessor(t, Config{Maildir: dir})
	other := map[string]any{"to": "eve@example.com", "subject": "x", "text": "x"}
	for _, body := range []map[string]any{hello, other, hello} {
		if _, err := consumertest.Run(t.Context(), p, delivery(t, "1", body)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "new", "*"))
	if err != nil || len(files) != 2 {
		t.Errorf("got the mails %q (error %v), want 2: the third is a repeat", files, err)
	}
}

func TestFaultyBody(t *testing.T) {
	for _, test := range []struct {
		name, body string
		texts      []string
	}{
		{"no JSON", `hello`, []string{"decode"}},
		{"unknown field", `{"to":"a@b.c","subjet":"x","text":"x"}`, []string{`"subjet"`, "subject"}},
		{"unknown field of an attachment", `{"to":"a@b.c","subject":"x","text":"x","attachments":[{"file":"x"}]}`, []string{`"attachments[0].file"`, "name"}},
		{"null", `null`, nil},
		{"no recipient", `{"subject":"x","text":"x"}`, []string{"to, cc and bcc"}},
		{"recipient of another type", `{"to":{"a":1},"subject":"x","text":"x"}`, []string{"to ", "list"}},
		{"no address", `{"to":"bob","subject":"x","text":"x"}`, []string{"to:", `"bob"`}},
		{"several addresses in one", `{"cc":"a@b.c, d@e.f","subject":"x","text":"x"}`, []string{"cc:", "list"}},
		{"empty address", `{"bcc":[""],"subject":"x","text":"x"}`, []string{"bcc:"}},
		{"faulty sender", `{"from":"me","to":"a@b.c","subject":"x","text":"x"}`, []string{"from:"}},
		{"non-ASCII address", `{"to":"zoë@b.c","subject":"x","text":"x"}`, []string{"to:", "non-ASCII"}},
		{"quoted address", `{"to":"\"a> b\"@b.c","subject":"x","text":"x"}`, []string{"to:", "quoted"}},
		{"no subject", `{"to":"a@b.c","text":"x"}`, []string{"subject"}},
		{"blank subject", `{"to":"a@b.c","subject":"   ","text":"x"}`, []string{"subject"}},
		{"long subject", `{"to":"a@b.c","subject":"` + strings.Repeat("x", 2000) + `","text":"x"}`, []string{"subject", "shorten"}},
		{"encoded subject", `{"to":"a@b.c","subject":"=?utf-8?q?a=0ab?=","text":"x"}`, []string{"subject", "encoded"}},
		{"encoded name, twice", `{"to":"\"=?utf-8?q?a=0ab?=\" <a@b.c>","subject":"x","text":"x"}`, []string{"to:", "encoded"}},
		{"no content", `{"to":"a@b.c","subject":"x"}`, []string{"template, text or html"}},
		{"template and text", `{"to":"a@b.c","subject":"x","text":"x","template":"x"}`, []string{"template", "text", "remove"}},
		{"data without template", `{"to":"a@b.c","subject":"x","text":"x","data":{}}`, []string{"data", "template"}},
		{"template without templates", `{"to":"a@b.c","template":"x"}`, []string{"template", "TEMPLATES"}},
		{"attachment without name", `{"to":"a@b.c","subject":"x","text":"x","attachments":[{"content":""}]}`, []string{"attachments[0].name"}},
		{"attachment with a path", `{"to":"a@b.c","subject":"x","text":"x","attachments":[{"name":"../x"}]}`, []string{"attachments[0].name", "path"}},
		{"attachment with a faulty type", `{"to":"a@b.c","subject":"x","text":"x","attachments":[{"name":"x","content_type":"a/b\r\nX: y"}]}`, []string{"attachments[0].content_type"}},
		{"attachment that is not base64", `{"to":"a@b.c","subject":"x","text":"x","attachments":[{"name":"x","content":"!"}]}`, []string{"base64"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkRefused(t, test.body, test.texts...)
		})
	}
}

// checkRefused says what is wrong if the body leads to a mail, or to anything but a
// dead letter with an error that has the texts.
func checkRefused(t *testing.T, body string, texts ...string) {
	t.Helper()
	dir := t.TempDir()
	p := newProcessor(t, Config{Maildir: dir})
	_, err := consumertest.Run(t.Context(), p, delivery(t, "1", body))
	checkVerdict(t, err, "dead", texts...)
	if files := filesIn(t, dir, "new"); len(files) != 0 {
		t.Errorf("a mail was written, want none")
	}
}

// Text that is not UTF-8 would reach its reader with replacement characters.
func TestLatin1IsUndecodable(t *testing.T) {
	checkRefused(t, "{\"to\":\"a@b.c\",\"subject\":\"Gr\xfc\xdfe\",\"text\":\"x\"}", "not UTF-8", "0xfc")
	checkRefused(t, "\x1f\x8b\x08", "gzip")
	checkRefused(t, "\ufeff{}", "byte order mark")
}

func TestSenders(t *testing.T) {
	for _, test := range []struct{ allowed, from, verdict string }{
		{"", "Somebody <shop@example.com>", "ack"},
		{"", "SHOP@Example.com", "ack"},
		{"", "boss@example.com", "dead"},
		{"billing@example.com, @news.example.com", "billing@example.com", "ack"},
		{"billing@example.com, @news.example.com", "any@news.example.com", "ack"},
		{"billing@example.com, @news.example.com", "shop@example.com", "ack"},
		{"billing@example.com, @news.example.com", "any@example.com", "dead"},
		{"billing@example.com, @news.example.com", "any@more.news.example.com", "dead"},
		{"*", "any@example.org", "ack"},
	} {
		dir := t.TempDir()
		p := newProcessor(t, Config{Maildir: dir, FromAllowed: test.allowed})
		_, err := consumertest.Run(t.Context(), p, delivery(t, "1", map[string]any{"from": test.from, "to": "a@b.c", "subject": "x", "text": "x"}))
		if test.verdict == "ack" {
			checkVerdict(t, err, "ack")
			continue
		}
		checkVerdict(t, err, "dead", "from is "+test.from, "shop@example.com", "FROM_ALLOWED")
	}
}

func TestInjectionIsRefused(t *testing.T) {
	evil := []string{"x\r\nBcc: eve@example.com", "x\nBcc: eve@example.com", "x\rBcc: eve@example.com", "x\x00", "x\x7f", "x\u0085y"}
	for _, e := range evil {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		quoted := strings.Trim(string(text), `"`)
		for _, body := range []string{
			`{"to":"a@b.c","subject":"` + quoted + `","text":"x"}`,
			`{"to":"a@b.c` + quoted + `","subject":"x","text":"x"}`,
			`{"to":"` + quoted + ` <a@b.c>","subject":"x","text":"x"}`,
			`{"to":"a@b.c","from":"` + quoted + ` <a@b.c>","subject":"x","text":"x"}`,
			`{"to":"a@b.c","reply_to":"` + quoted + ` <a@b.c>","subject":"x","text":"x"}`,
			`{"to":"a@b.c","subject":"x","text":"x","attachments":[{"name":"` + quoted + `"}]}`,
		} {
			checkRefused(t, body)
		}
	}
	// The line break is hidden in an encoded word.
	checkRefused(t, `{"to":"=?utf-8?q?x=0d=0aBcc=3a_eve=40example.com?= <a@b.c>","subject":"x","text":"x"}`, "control character")
}

// A run of spaces, folded at each, could become the empty line that ends a header.
func TestSpacesDoNotEndTheHeader(t *testing.T) {
	spaces := strings.Repeat(" ", 300)
	dir := t.TempDir()
	p := newProcessor(t, Config{Maildir: dir})
	body := map[string]any{"to": `"a` + spaces + `b" <a@b.c>`, "subject": "x" + spaces + "Bcc: eve@example.com", "text": "the body"}
	if _, err := consumertest.Run(t.Context(), p, delivery(t, "1", body)); err != nil {
		t.Fatal(err)
	}
	m := parseMail(t, onlyMail(t, dir))
	if m.text != "the body" || m.subject != "x Bcc: eve@example.com" {
		t.Errorf("got subject %q and text %q, want one space in the one and %q as the other", m.subject, m.text, "the body")
	}
}

func TestMaildir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mails")
	p := newProcessor(t, Config{Maildir: dir})
	body := map[string]any{"to": "bob@example.com", "bcc": "carol@example.com", "subject": "Hi", "text": "Hi\nBob"}
	for range 2 { // a repeat replaces the mail
		if _, err := consumertest.Run(t.Context(), p, delivery(t, "1", body)); err != nil {
			t.Fatal(err)
		}
	}
	content := onlyMail(t, dir)
	if strings.Contains(string(content), "\r") {
		t.Errorf("got %q, want lines that end with LF", content)
	}
	m := parseMail(t, content)
	if got, want := m.header["Delivered-To"], []string{"bob@example.com", "carol@example.com"}; !slices.Equal(got, want) {
		t.Errorf("got Delivered-To %q, want %q", got, want)
	}
	if got := m.header.Get("Return-Path"); got != "<shop@example.com>" {
		t.Errorf("got Return-Path %q, want <shop@example.com>", got)
	}
	if _, err := consumertest.Run(t.Context(), p, delivery(t, "2", body)); err != nil {
		t.Fatal(err)
	}
	if got := filesIn(t, dir, "new"); len(got) != 2 {
		t.Errorf("got mails %v, want 2", got)
	}
	if got := filesIn(t, dir, "tmp"); len(got) != 0 {
		t.Errorf("got unfinished files %v, want none", got)
	}

	if err := os.RemoveAll(filepath.Join(dir, "new")); err != nil {
		t.Fatal(err)
	}
	_, err := consumertest.Run(t.Context(), p, delivery(t, "3", body))
	checkVerdict(t, err, "retry", "MAILDIR")
	if got := filesIn(t, dir, "tmp"); len(got) != 0 {
		t.Errorf("after a fault: got unfinished files %v, want none", got)
	}
}

func filesIn(t testing.TB, dir, sub string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, sub, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func onlyMail(t testing.TB, dir string) []byte {
	t.Helper()
	files := filesIn(t, dir, "new")
	if len(files) != 1 {
		t.Fatalf("got mails %v, want 1", files)
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestConfigFaultsAreAllReported(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		cfg   Config
		texts []string
	}{
		{Config{}, []string{"neither SMTP_URL nor MAILDIR", "FROM"}},
		{Config{SMTPURL: "smtp://x", Maildir: "x", From: "nobody", Templates: "/no/such/folder"}, []string{"both SMTP_URL and MAILDIR", "FROM", "TEMPLATES"}},
		{Config{Maildir: filepath.Join(file, "x"), From: "a@b.c"}, []string{"MAILDIR"}},
		{Config{SMTPURL: "smtp://x", From: "a@b.c\r\nX: y"}, []string{"FROM"}},
		{Config{SMTPURL: "smtp://x", From: "a@b.c", FromAllowed: "example.com"}, []string{"FROM_ALLOWED", `"example.com"`}},
		{Config{SMTPURL: "smtp://x", From: "a@b.c", FromAllowed: "@"}, []string{"FROM_ALLOWED", `has "@"`}},
		{Config{SMTPURL: "smtp://x", From: "a@b.c", Templates: t.TempDir()}, []string{"TEMPLATES", "no .html or .txt"}},
	} {
		err := test.cfg.Validate(registry.Queue{Name: "emails", Concurrency: 1})
		for _, text := range test.texts {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%+v: got error %v, want one with %q", test.cfg, err, text)
			}
		}
	}
}

// FuzzMessage gives bodies to a processor with a Maildir: none makes it panic, and
// what it writes is a mail with no header but those that it is to have.
func FuzzMessage(f *testing.F) {
	for _, body := range []string{
		`{"to":"a@b.c","subject":"x","text":"x"}`,
		`{"to":["A <a@b.c>","d@e.f"],"cc":"g@h.i","bcc":[],"from":"j@k.l","reply_to":"m@n.o","subject":"é","html":"<p>","text":"\n.\n"}`,
		`{"to":"a@b.c","template":"mail","data":{"name":"<b>","n":[1,2.5,1e400]}}`,
		`{"to":"a@b.c","subject":"x","text":"x","attachments":[{"name":"a.pdf","content_type":"application/pdf; a=b","content":"eA=="}]}`,
		`{"to":"a@b.c","subject":"x\r\nBcc: e@f.g","text":"x"}`,
		`{"to":"=?utf-8?q?x=0d=0a?= <a@b.c>","subject":"` + strings.Repeat(" ", 100) + `x","text":"x"}`,
		`{"to":"\"` + strings.Repeat(" x  ", 100) + `\" <a@b.c>","subject":"=?utf-8?q?=0d=0a?=","text":"` + strings.Repeat("x", 1200) + `"}`,
		`null`, `[]`, `{"to":null}`, `{"to":[null]}`, "{",
	} {
		f.Add([]byte(body))
	}
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mail.html"), []byte(`{{define "subject"}}For {{.name}}{{end}}<p>{{.name}}</p>{{range .n}}{{.}}{{end}}`), 0o600); err != nil {
		f.Fatal(err)
	}
	maildir := f.TempDir()
	p := newProcessor(f, Config{Maildir: maildir, Templates: dir, FromAllowed: "*"})
	f.Fuzz(func(t *testing.T, body []byte) {
		_, err := consumertest.Run(t.Context(), p, consumer.Delivery{Queue: "emails", Body: body})
		if err != nil {
			checkVerdict(t, err, "dead")
			if _, panicked := err.(*consumer.PanicError); panicked {
				t.Errorf("got panic %v, want none", err)
			}
			return
		}
		content := onlyMail(t, maildir)
		if err := os.Remove(filesIn(t, maildir, "new")[0]); err != nil {
			t.Fatal(err)
		}
		m := parseMail(t, content)
		for name, values := range m.header {
			if !slices.Contains([]string{"Return-Path", "Delivered-To", "Date", "Message-Id", "Mime-Version", "From", "To", "Cc", "Reply-To", "Subject", "Content-Type", "Content-Transfer-Encoding"}, name) || len(values) != 1 && name != "Delivered-To" {
				t.Errorf("got header %s: %q, want only those of a mail, and each once", name, values)
			}
		}
		for _, name := range []string{"From", "To", "Cc", "Reply-To"} {
			if _, err := m.header.AddressList(name); err != nil && !errors.Is(err, netmail.ErrHeaderNotPresent) {
				t.Errorf("header %s: %q cannot be parsed: %v", name, m.header[name], err)
			}
		}
		for line := range strings.SplitSeq(string(content), "\n") {
			if len(line) > 998 || strings.ContainsAny(line, "\r\n") {
				t.Errorf("got line %q, want at most 998 bytes and no line break within", line)
			}
		}
	})
}
