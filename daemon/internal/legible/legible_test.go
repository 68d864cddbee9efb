package legible

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Nothing in a message reaches a terminal or a page as anything but characters.
func TestLines(t *testing.T) {
	for text, want := range map[string]string{
		"plain äöü 漢字":              "plain äöü 漢字",
		"\x1b[31mred\x07":           `\x1b[31mred\x07`,
		"two\nlines\tand\ra return": `two\nlines\tand\x0da return`,
		"\u202egnp.exe":             `\u202egnp.exe`,
		"zero\u200bwidth\u009b":     `zero\u200bwidth\x9b`,
		"bytes \xff\xfe":            `bytes \xff\xfe`,
		"\u2028":                    `\u2028`,
		"":                          "",
	} {
		if got := Line(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got, want := Lines("a\tb\r\nc\x1b[0m\n"), "a\tb\nc\\x1b[0m\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParts(t *testing.T) {
	type part struct {
		text   string
		hidden bool
	}
	var got []part
	for text, hidden := range Parts("a\x00\nb", true) {
		got = append(got, part{text, hidden})
	}
	if want := []part{{"a", false}, {`\x00`, true}, {"\nb", false}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestBodies(t *testing.T) {
	for body, want := range map[string]string{
		`{"id":12345678901234567890,"amount":1.10,"list":[1e5]}`: "JSON|{\n  \"id\": 12345678901234567890,\n  \"amount\": 1.10,\n  \"list\": [\n    1e5\n  ]\n}",
		"Dear Ada,\n\x1b[2J\n":                 "text|Dear Ada,\n\x1b[2J\n",
		"":                                     "text|",
		"\x00\x01\x02ab\xffmore than is shown": "binary|00000000  00 01 02 61 62 ff                                 |...ab.|",
	} {
		if kind, text := Body([]byte(body), 6); kind+"|"+text != want {
			t.Errorf("%q: got %q, want %q", body, kind+"|"+text, want)
		}
	}
}

// Indenting makes no flood of a body that is small.
func TestABodyThatIndentingWouldBlowUp(t *testing.T) {
	deep := strings.Repeat("[", 9900) + strings.Repeat("1,", 1100) + "1" + strings.Repeat("]", 9900)
	if kind, text := Body([]byte(deep), 1000); kind != "JSON" || text != deep {
		t.Errorf("got %s of %d bytes, of a body of %d", kind, len(text), len(deep))
	}
	for _, body := range []string{`{"a":[{},[],{"b":["c,\"[",{"d":1,"e":"]]\\"}]}]}`, `[1,2,3]`, `"[,:]"`} {
		if _, text := Body([]byte(body), 0); len(text) > len(body)+indentation([]byte(body)) || text == body && body[0] != '"' {
			t.Errorf("%s: got %s, and reckoned with %d bytes more", body, text, indentation([]byte(body)))
		}
	}
}

func TestHeaders(t *testing.T) {
	for want, v := range map[string]any{
		"as it <is>": "as it <is>", "00ff": []byte{0, 255}, "2026-08-01T00:00:00Z": time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC), `["<1>",2]`: []any{"<1>", 2}, "-7": int64(-7),
	} {
		if got := Header(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
}

func TestDifference(t *testing.T) {
	for _, test := range []struct {
		before, after              string
		begin, removed, added, end []string
	}{
		{"a\nb\nc\nd\ne", "a\nb\nX\nd\ne", []string{"a", "b"}, []string{"c"}, []string{"X"}, []string{"d", "e"}},
		{"a\na", "a\na\na", []string{"a", "a"}, nil, []string{"a"}, nil},
		{"a\nb\nb", "a\nb", []string{"a", "b"}, []string{"b"}, nil, nil},
		{"same", "same", []string{"same"}, nil, nil, nil},
		{"x", "y", nil, []string{"x"}, []string{"y"}, nil},
	} {
		begin, removed, added, end := Difference(test.before, test.after)
		if !slices.Equal(begin, test.begin) || !slices.Equal(removed, test.removed) || !slices.Equal(added, test.added) || !slices.Equal(end, test.end) {
			t.Errorf("%q and %q: got %q, %q, %q, %q", test.before, test.after, begin, removed, added, end)
		}
	}
}

func TestShortDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 119 * time.Minute: "119m", 2 * time.Hour: "2h", 47 * time.Hour: "47h", 72 * time.Hour: "3d", -3 * time.Hour: "-3h",
	} {
		if got := Short(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}
