package sql

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/warrenmq/warren/internal/pgtest"
)

// TestDocumentedStatement holds the example of docs/sql.md to what it does.
func TestDocumentedStatement(t *testing.T) {
	page, err := os.ReadFile("../../docs/sql.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]string{}
	for _, block := range regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		blocks[block[1]] = append(blocks[block[1]], block[2])
	}
	if len(blocks["sql"]) != 1 || len(blocks["json"]) != 2 {
		t.Fatalf("the page has other blocks than the test knows: %d, %d", len(blocks["sql"]), len(blocks["json"]))
	}
	b := newBench(t, pgtest.URL(t), map[string]string{"expire-tokens": blocks["sql"][0]})
	b.execute(`CREATE TABLE tokens (kind text, expires_at timestamptz);
		INSERT INTO tokens VALUES ('session', now() - interval '8 days'), ('reset', now() - interval '31 days'),
			('session', now() - interval '6 days'), ('api', now() - interval '31 days')`)
	var want result
	if err := json.Unmarshal([]byte(blocks["json"][1]), &want); err != nil {
		t.Fatal(err)
	}
	answer, err := b.run(blocks["json"][0])
	if err != nil {
		t.Fatal(err)
	}
	var got result
	if err := json.Unmarshal([]byte(answer), &got); err != nil || got != want {
		t.Errorf("got %s, %v, want %+v", answer, err, want)
	}
	if left := b.number("SELECT count(*) FROM tokens"); left != 2 {
		t.Errorf("%d tokens are left, want 2", left)
	}
}
