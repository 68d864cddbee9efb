package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/warrenmq/warren/internal/pgtest"
)

// TestDocumentedReport holds docs/reports.md to what is made.
func TestDocumentedReport(t *testing.T) {
	page, err := os.ReadFile("../../docs/reports.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]string{}
	for _, block := range regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		blocks[block[1]] = append(blocks[block[1]], block[2])
	}
	if len(blocks["sql"]) != 1 || len(blocks["csv"]) != 1 || len(blocks["json"]) != 3 {
		t.Fatalf("the page has other blocks than the test knows: %d, %d, %d", len(blocks["sql"]), len(blocks["csv"]), len(blocks["json"]))
	}
	source := pgtest.URL(t)
	execute(t, source, `CREATE TABLE orders (placed_on date, currency text, total numeric(10,2));
		INSERT INTO orders VALUES ('2026-01-30', 'EUR', 19.90), ('2026-01-30', 'EUR', 19.90), ('2026-01-31', 'EUR', 1250), ('2026-01-31', 'SEK', 1), ('2025-12-31', 'EUR', 1)`)
	maildir := t.TempDir()
	p := newProcessor(t, Config{
		Reports: reports(t, map[string]string{"sales": blocks["sql"][0]}), SourceURL: source, Output: t.TempDir(),
		Maildir: maildir, From: "shop@example.com", AttachmentMaxBytes: 5_000_000,
	})
	got, content := made(t, p, blocks["json"][0])
	if want := strings.ReplaceAll(blocks["csv"][0], "\n", "\r\n"); content != want {
		t.Errorf("got %q\nwant %q", content, want)
	}
	var want result
	dec := json.NewDecoder(strings.NewReader(blocks["json"][1]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&want); err != nil {
		t.Fatal(err)
	}
	want.Location = filepath.Join(filepath.Dir(got.Location), filepath.Base(want.Location))
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}

	made(t, p, blocks["json"][2])
	if all := mails(t, maildir); len(all) != 1 || all[0].header.Get("Subject") != "Sales of January" || all[0].files["sales.xlsx"] == "" {
		t.Errorf("got the mails %+v", all)
	}

	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z]+)` \\| `(\\.[a-z]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, row[1])
		if formats[row[1]].extension != row[2] {
			t.Errorf("format %s makes %s, want %s", row[1], formats[row[1]].extension, row[2])
		}
	}
	if len(documented) != len(formats) {
		t.Errorf("documented are %q, there are %d formats", documented, len(formats))
	}
}
