package cli

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
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
	for name, want := range map[string]string{
		"json 0":  "[]\n",
		"json 2":  "[\n{\"n\":\"<1>\"},\n{\"n\":\"<1>\"}\n]\n",
		"jsonl 0": "",
		"jsonl 2": "{\"n\":\"<1>\"}\n{\"n\":\"<1>\"}\n",
	} {
		var out bytes.Buffer
		kind, n, _ := strings.Cut(name, " ")
		list := format{kind}.list(&out, nil)
		for range int(n[0] - '0') {
			if err := list.add(map[string]string{"n": "<1>"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := list.end(); err != nil || out.String() != want {
			t.Errorf("%s: got %q and error %v, want %q", name, out.String(), err, want)
		}
	}
}
