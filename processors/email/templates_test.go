package email

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
)

// folder makes one with the files, by name.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var shopTemplates = map[string]string{
	"confirmation.html": `{{define "subject"}}
  Order {{.order}} for {{.name}}
{{end}}<p title="{{.name}}">Dear {{.name}}, {{range .items}}{{.name}}: {{printf "%.2f" .price}} {{end}}{{if gt .count 1}}several{{end}}</p>
<script>var name = {{.name}}</script>`,
	"confirmation.txt": "Dear {{.name}}, thanks for order {{.order}}.",
	"plain.txt":        `Only text for {{.name}}`,
	"page.html":        `<p>Only HTML</p>`,
	"page.txt":         `{{define "subject"}}From the text file{{end}}`,
	"README.md":        `not a {{template`,
}

func TestTemplates(t *testing.T) {
	dir := folder(t, shopTemplates)
	for _, test := range []struct{ name, body, subject, text, html string }{
		{
			"both with a subject",
			`{"to":"a@b.c","template":"confirmation","data":{"order":12345678,"name":"<Tom & \"Eve\">","count":2,"items":[{"name":"tea","price":2.5}]}}`,
			`Order 12345678 for <Tom & "Eve">`,
			`Dear <Tom & "Eve">, thanks for order 12345678.`,
			"<p title=\"&lt;Tom &amp; &#34;Eve&#34;&gt;\">Dear &lt;Tom &amp; &#34;Eve&#34;&gt;, tea: 2.50 several</p>\n" +
				`<script>var name = "\u003cTom \u0026 \"Eve\"\u003e"</script>`,
		},
		{"the message's own subject", `{"to":"a@b.c","subject":"Mine","template":"page"}`, "Mine", "", "<p>Only HTML</p>"},
		{"a subject from the text file", `{"to":"a@b.c","template":"page"}`, "From the text file", "", "<p>Only HTML</p>"},
		{"text only", `{"to":"a@b.c","subject":"x","template":"plain","data":{"name":"<b>"}}`, "x", "Only text for <b>", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			maildir := t.TempDir()
			p := newProcessor(t, Config{Maildir: maildir, Templates: dir})
			if _, err := consumertest.Run(t.Context(), p, delivery(t, "1", test.body)); err != nil {
				t.Fatalf("got error %v, want none", err)
			}
			m := parseMail(t, onlyMail(t, maildir))
			if m.subject != test.subject || m.text != test.text || m.html != test.html {
				t.Errorf("got subject %q, text %q, html %q\nwant subject %q, text %q, html %q", m.subject, m.text, m.html, test.subject, test.text, test.html)
			}
		})
	}

	maildir := t.TempDir()
	p := newProcessor(t, Config{Maildir: maildir, Templates: dir})
	for _, test := range []struct {
		name, body string
		texts      []string
	}{
		{"a missing key", `{"to":"a@b.c","subject":"x","template":"plain","data":{}}`, []string{"plain.txt:1", `"name"`}},
		{"no data", `{"to":"a@b.c","subject":"x","template":"plain"}`, []string{"plain.txt:1", `"name"`}},
		{"a missing key in the subject", `{"to":"a@b.c","template":"confirmation","data":{"name":"x","count":1,"items":[]}}`, []string{`"order"`}},
		{"an unknown template", `{"to":"a@b.c","subject":"x","template":"plane"}`, []string{`"plane"`, "confirmation, page, plain"}},
		{"a way out of the folder", `{"to":"a@b.c","subject":"x","template":"../` + filepath.Base(dir) + `/plain","data":{"name":"x"}}`, []string{"template"}},
		{"a file's name", `{"to":"a@b.c","subject":"x","template":"plain.txt","data":{"name":"x"}}`, []string{"template"}},
		{"no subject", `{"to":"a@b.c","template":"plain","data":{"name":"x"}}`, []string{"subject", "define"}},
		{"a line break in the subject", `{"to":"a@b.c","template":"confirmation","data":{"order":1,"name":"x\r\nBcc: e@f.g","count":1,"items":[]}}`, []string{"subject", "control character"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := consumertest.Run(t.Context(), p, delivery(t, "1", test.body))
			checkVerdict(t, err, "dead", test.texts...)
			if sent := filesIn(t, maildir, "new"); len(sent) != 0 {
				t.Errorf("a mail was sent, want none")
			}
		})
	}
}

func TestBrokenTemplatesAreFoundAtStart(t *testing.T) {
	dir := folder(t, map[string]string{
		"good.txt":    "{{.x}}",
		"syntax.txt":  "line 1\nline 2 {{if}}",
		"syntax.html": "<p>{{end}}</p>",
		"context.html": "<p>fine</p>\n{{if .x}}<a href='{{else}}<b>{{end}}\n" +
			"{{.y}}",
		"twice.html": `{{define "subject"}}a{{end}}`,
		"twice.txt":  `{{define "subject"}}b{{end}}`,
	})
	_, err := loadTemplates(dir)
	for _, text := range []string{"TEMPLATES", dir, "syntax.txt:2", "syntax.html:1", "context.html:2", "twice.txt"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got error %v\nwant one with %q", err, text)
		}
	}
	if strings.Contains(err.Error(), "good.txt") {
		t.Errorf("got error %v, want none about good.txt", err)
	}
}

// A template that asks for more than a mail can be ends soon, whatever it asks for: an
// integer in the data has range count up to it.
func TestTemplateIsBounded(t *testing.T) {
	dir := folder(t, map[string]string{
		"silent.txt":  "{{range .n}}{{end}}x",
		"silent.html": "<p>{{range $n := .n}}{{if false}}{{$n}}{{end}}{{end}}</p>",
		"loud.txt":    "{{range .n}}" + strings.Repeat("x", 200) + "{{end}}",
		"loud.html":   "<p>{{range .n}}{{.}} and " + strings.Repeat("x", 200) + "{{end}}</p>",
		"nested.html": `{{range .list}}{{range $.list}}{{range $.list}}{{end}}{{end}}{{end}}`,
		"subject.txt": `{{define "subject"}}{{range .n}}{{end}}{{end}}x`,
	})
	maildir := t.TempDir()
	p := newProcessor(t, Config{Maildir: maildir, Templates: dir})
	list := strings.TrimSuffix(strings.Repeat("0,", 200), ",")
	for template, text := range map[string]string{
		"silent": "more than 100000 times", "loud": "more than 8388608 bytes", "nested": "more than 100000 times", "subject": "more than 100000 times",
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := consumertest.Run(t.Context(), p, delivery(t, "1", `{"to":"a@b.c","subject":"x","template":"`+template+`","data":{"n":9000000000000000000,"list":[`+list+`]}}`))
		runtime.ReadMemStats(&after)
		checkVerdict(t, err, "dead", "template "+template, text)
		if got := after.TotalAlloc - before.TotalAlloc; template == "loud" && got > 10*maxOutputBytes {
			t.Errorf("%s: %d bytes were allocated, want few times the bound", template, got)
		}
	}
	// What failed has left nothing behind in a template that is executed again.
	_, err := consumertest.Run(t.Context(), p, delivery(t, "1", `{"to":"a@b.c","subject":"x","template":"silent","data":{"n":3}}`))
	checkVerdict(t, err, "ack")
	if m := parseMail(t, onlyMail(t, maildir)); m.text != "x" || m.html != "<p></p>" {
		t.Errorf("got %q and %q, want x and <p></p>", m.text, m.html)
	}
}

// A template that uses itself without an end costs no more than others.
func TestTemplateThatUsesItself(t *testing.T) {
	p := newProcessor(t, Config{Maildir: t.TempDir(), Templates: folder(t, map[string]string{
		"x.txt": `{{define "a"}}{{if .}}{{template "a" (slice . 1)}}{{template "a" (slice . 1)}}{{end}}{{end}}{{template "a" .s}}x`,
	})})
	_, err := consumertest.Run(t.Context(), p, delivery(t, "1", `{"to":"a@b.c","subject":"x","template":"x","data":{"s":"a text of sixty-four bytes, so that the tree has 2^64 leaves...."}}`))
	checkVerdict(t, err, "dead", "more than 100000 times")
}

// A template ends with its attempt.
func TestTemplateEndsWithTheAttempt(t *testing.T) {
	p := newProcessor(t, Config{Maildir: t.TempDir(), Templates: folder(t, map[string]string{"x.html": "{{range .n}}{{end}}x"})})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(consumer.ErrTimeout)
	_, err := consumertest.Run(ctx, p, delivery(t, "1", `{"to":"a@b.c","subject":"x","template":"x","data":{"n":10}}`))
	checkVerdict(t, err, "retry", "template x: ", consumer.ErrTimeout.Error())
}

// Several mails are made of a template at once, each of its own data.
func TestTemplateIsUsedByManyAtOnce(t *testing.T) {
	p := newProcessor(t, Config{Maildir: t.TempDir(), Templates: folder(t, shopTemplates)})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				name := fmt.Sprint("N", i)
				r, err := p.templates.render(t.Context(), "confirmation", map[string]any{"order": i, "name": name, "count": 2, "items": []any{map[string]any{"name": "tea", "price": 1.5}}})
				if want := fmt.Sprintf("Dear %s, thanks for order %d.", name, i); err != nil || r.text != want || !strings.Contains(r.html, "Dear "+name) {
					t.Errorf("got %+v (error %v), want %q", r, err, want)
				}
			}
		})
	}
	wg.Wait()
}

func TestNullInATemplate(t *testing.T) {
	dir := folder(t, map[string]string{
		"x.txt":  `{{define "subject"}}For {{.none}}you{{end}}[{{.none}}|{{index .map "no"}}|{{or .none .none}}|{{if .none}}yes{{else}}no{{end}}|{{range .none}}x{{else}}none{{end}}|{{$a := .none}}{{$a}}|{{.zero}}|{{.no}}]`,
		"x.html": `<p title="{{.none}}">{{.none}}</p>`,
	})
	maildir := t.TempDir()
	p := newProcessor(t, Config{Maildir: maildir, Templates: dir})
	_, err := consumertest.Run(t.Context(), p, delivery(t, "1", `{"to":"a@b.c","template":"x","data":{"none":null,"map":{},"zero":0,"no":false}}`))
	checkVerdict(t, err, "ack")
	m := parseMail(t, onlyMail(t, maildir))
	if want := "[|||no|none||0|false]"; m.subject != "For you" || m.text != want || m.html != `<p title=""></p>` {
		t.Errorf("got %q, %q and %q, want nothing for null", m.subject, m.text, m.html)
	}
}
