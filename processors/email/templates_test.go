package email

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer/consumertest"
)

// A taker is a transport that keeps the last mail.
type taker struct{ mail *mail }

func (k *taker) send(_ context.Context, m *mail) error { k.mail = m; return nil }
func (k *taker) Close() error                          { return nil }

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
	p := newProcessor(t, Config{Maildir: t.TempDir(), Templates: dir})
	taken := &taker{}
	p.transport = taken
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
			if _, err := consumertest.Run(t.Context(), p, delivery(t, "1", test.body)); err != nil {
				t.Fatalf("got error %v, want none", err)
			}
			m := parse(t, taken.mail.content)
			html := strings.ReplaceAll(m.html, "\r\n", "\n")
			if m.subject != test.subject || m.text != test.text || html != test.html {
				t.Errorf("got subject %q, text %q, html %q\nwant subject %q, text %q, html %q", m.subject, m.text, html, test.subject, test.text, test.html)
			}
		})
	}

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
			taken.mail = nil
			_, err := consumertest.Run(t.Context(), p, delivery(t, "1", test.body))
			checkVerdict(t, err, "dead", test.texts...)
			if taken.mail != nil {
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
