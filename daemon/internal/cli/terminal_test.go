package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/daemon/internal/legible"
)

func TestTables(t *testing.T) {
	var out bytes.Buffer
	list := format{"table"}.list(&out, []string{"ID", "AGE", "ERROR"}, 10, 5)
	for range 3 {
		if err := list.add(nil, "a-long-identity", "5m", strings.Repeat("ö", 200)); err != nil {
			t.Fatal(err)
		}
	}
	if err := list.add(nil, "b", "", ""); err != nil {
		t.Fatal(err)
	}
	if err := list.end(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if lines[0] != "ID          AGE  ERROR" || lines[1] != "a-long-id…  5m   "+strings.Repeat("ö", 62)+"…" || lines[4] != "b" {
		t.Errorf("got\n%s", out.String())
	}
	for _, line := range lines {
		if utf8.RuneCountInString(line) > defaultWidth {
			t.Errorf("more than %d characters: %s", defaultWidth, line)
		}
	}
}

// A long list is printed as it comes.
func TestLongTables(t *testing.T) {
	var out bytes.Buffer
	list := format{"table"}.list(&out, []string{"ID", "ERROR"}, 10)
	for i := range tableRows + 1 {
		if before := out.Len(); i < tableRows-1 && before != 0 {
			t.Fatalf("row %d: printed before its widths are known", i)
		}
		if err := list.add(nil, "id", "x"); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(out.String(), "\n"); got != tableRows+2 {
		t.Errorf("got %d lines, want %d", got, tableRows+2)
	}
}

func TestLists(t *testing.T) {
	const line = `{"n":"<1>\u009b\u202e"}`
	for name, want := range map[string]string{
		"json 0":  "[]\n",
		"json 2":  "[\n" + line + ",\n" + line + "\n]\n",
		"jsonl 0": "",
		"jsonl 2": line + "\n" + line + "\n",
	} {
		var out bytes.Buffer
		kind, n, _ := strings.Cut(name, " ")
		list := format{kind}.list(&out, nil)
		for range int(n[0] - '0') {
			if err := list.add(map[string]string{"n": "<1>\u009b\u202e"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := list.end(); err != nil || out.String() != want {
			t.Errorf("%s: got %q and error %v, want %q", name, out.String(), err, want)
		}
	}
}

// No id that a publisher has made acts on the terminal of whoever looks at the daemons as JSON.
func TestDaemonsAsJSON(t *testing.T) {
	for _, kind := range []string{"json", "jsonl"} {
		const id = "\u009b31m\u202eorder"
		var out bytes.Buffer
		ps := psCommand{format: format{kind}}
		answers := []fleet.Answer{{Status: &fleet.Status{Queues: []fleet.QueueStatus{{Attempts: []fleet.Attempt{{MessageID: id}}}}}}}
		if err := ps.print(App{Out: &out}, answers, nil); err != nil {
			t.Fatal(err)
		}
		if text := out.String(); legible.Lines(text) != text || !json.Valid(out.Bytes()) || !strings.Contains(text, `\u009b31m\u202eorder`) {
			t.Errorf("%s: got %q", kind, text)
		}
	}
}
