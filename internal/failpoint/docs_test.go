package failpoint

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table into the documentation")

// The table in the documentation is that of the points there are.
func TestTheTableOfPoints(t *testing.T) {
	const path, head, end = "../../docs/guarantees.md", "| point | what has happened | what fails there |\n| --- | --- | --- |\n", "<!-- the end of the table -->"
	var want strings.Builder
	for _, d := range Descriptions() {
		fails := "every connection"
		if d.Fails {
			fails = "the call"
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", d.Point, d.After, fails)
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(page), head)
	table, after, found := strings.Cut(rest, end)
	if !found {
		t.Fatalf("%s has no table of failpoints", path)
	}
	if table == want.String() {
		return
	}
	if !*update {
		t.Fatalf("the table in %s is not that of the points there are: go test ./internal/failpoint -update", path)
	}
	if err := os.WriteFile(path, []byte(before+head+want.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Every point has a name of its own.
func TestNames(t *testing.T) {
	seen := make(map[Point]bool)
	for _, d := range Descriptions() {
		if seen[d.Point] || d.After == "" {
			t.Errorf("point %s: there are two, or it says nothing", d.Point)
		}
		seen[d.Point] = true
	}
	if len(seen) < 45 {
		t.Errorf("%d points, want 45 at least", len(seen))
	}
}
