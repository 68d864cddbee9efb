package statement

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"
)

// TestDocumentedTypes holds the table of docs/sql.md to the types that there are.
func TestDocumentedTypes(t *testing.T) {
	page, err := os.ReadFile("../../../docs/sql.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z]+)` \\| (?:`([^`]+)`.*|any value) \\| `([a-z ]+)` \\| ").FindAllStringSubmatch(string(page), -1)
	if len(rows) != len(types) {
		t.Errorf("%d types are documented, there are %d", len(rows), len(types))
	}
	for _, row := range rows {
		if got := types[row[1]].postgres; got != row[3] {
			t.Errorf("%s is %q in PostgreSQL, documented is %q", row[1], got, row[3])
		}
		if p := (param{kind: kind{base: row[1]}}); row[2] != "" {
			if _, err := p.value(json.RawMessage(row[2])); err != nil {
				t.Errorf("%s: %s is not taken: %v", row[1], row[2], err)
			}
		}
	}
}
