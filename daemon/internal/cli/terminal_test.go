package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Nothing in a message reaches the terminal as anything but characters.
func TestVisible(t *testing.T) {
	for text, want := range map[string]string{
		"plain äöü 漢字":              "plain äöü 漢字",
		"\x1b[31mred\x07":           `\x1b[31mred\x07`,
		"two\nlines\tand\ra return": `two\nlines\tand\x0da return`,
		"\u202egnp.exe":             `\u202egnp.exe`,
		"zero\u200bwidth\u009b":     `zero\u200bwidth\x9b`,
		"bytes \xff\xfe":            `bytes \xff\xfe`,
		"\u2028":                    `\u2028`,
	} {
		if got := visible(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got, want := visibleLines("a\tb\r\nc\x1b[0m\n"), "a\tb\nc\\x1b[0m\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

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

func TestShortDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 119 * time.Minute: "119m", 2 * time.Hour: "2h", 47 * time.Hour: "47h", 72 * time.Hour: "3d", -3 * time.Hour: "-3h",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

func TestBodiesForPeople(t *testing.T) {
	for body, want := range map[string]string{
		`{"id":12345678901234567890,"amount":1.10,"list":[1e5]}`: "JSON|{\n  \"id\": 12345678901234567890,\n  \"amount\": 1.10,\n  \"list\": [\n    1e5\n  ]\n}",
		"{\"a\":\"\u202e\"}":   "JSON|{\n  \"a\": \"\\u202e\"\n}",
		"Dear Ada,\n\x1b[2J\n": "text|Dear Ada,\n\\x1b[2J\n",
		"":                     "text|",
		"\x00\x01\x02ab\xff":   "binary|00000000  00 01 02 61 62 ff                                 |...ab.|",
	} {
		if kind, text := pretty([]byte(body)); kind+"|"+text != want {
			t.Errorf("%q: got %q, want %q", body, kind+"|"+text, want)
		}
	}
}
