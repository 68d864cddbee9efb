// Package legible makes what others have written legible for a person, on a terminal as on a
// page: nothing in it acts on either, and what could not be seen is.
package legible

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// IsHidden tells whether a character is not seen as itself: it moves the cursor, turns the
// direction, or takes no place.
func IsHidden(r rune) bool { return !unicode.IsPrint(r) }

// Parts are the parts of a text one after the other: those that are seen as they are, and
// each hidden character, or byte of none, as its number, such as \x1b or \u202e. With
// lines, what ends a line, and tabs, are kept.
func Parts(text string, lines bool) iter.Seq2[string, bool] {
	if lines {
		text = strings.ReplaceAll(text, "\r\n", "\n")
	}
	return func(yield func(part string, hidden bool) bool) {
		begin := 0
		for i := 0; i < len(text); {
			r, size := utf8.DecodeRuneInString(text[i:])
			invalid := r == utf8.RuneError && size == 1
			if !invalid && (!IsHidden(r) || lines && (r == '\n' || r == '\t')) {
				i += size
				continue
			}
			if begin < i && !yield(text[begin:i], false) {
				return
			}
			number := fmt.Sprintf(`\u%04x`, r)
			switch {
			case invalid:
				number = fmt.Sprintf(`\x%02x`, text[i])
			case r == '\n':
				number = `\n`
			case r == '\t':
				number = `\t`
			case r < 0x100:
				number = fmt.Sprintf(`\x%02x`, r)
			}
			if !yield(number, true) {
				return
			}
			i += size
			begin = i
		}
		if begin < len(text) {
			yield(text[begin:], false)
		}
	}
}

// Line is a text in one line, hidden characters as their numbers.
func Line(text string) string { return joined(text, false) }

// Lines is a text that keeps its lines and tabs, other hidden characters as their numbers.
func Lines(text string) string { return joined(text, true) }

func joined(text string, lines bool) string {
	var out strings.Builder
	for part := range Parts(text, lines) {
		out.WriteString(part)
	}
	return out.String()
}

// Header is the value of a header, its strings as they are.
func Header(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return hex.EncodeToString(v)
	case time.Time:
		return v.Format(time.RFC3339)
	}
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// maxIndentation is how many bytes indenting may add to a body. Without a bound, a small one that
// is nested deep enough would fill the memory.
const maxIndentation = 4 << 20

// Body is a body for a person, and what it is: JSON with its lines indented, unless that were to
// add megabytes, and its numbers as they are written, text as it is, or anything else in
// hexadecimal, of which at most so many bytes are shown. Its hidden characters are as they were.
func Body(body []byte, most int) (kind, text string) {
	switch {
	case utf8.Valid(body) && json.Valid(body):
		if indentation(body) > maxIndentation {
			return "JSON", string(body)
		}
		var indented bytes.Buffer
		_ = json.Indent(&indented, body, "", "  ") // it is valid
		return "JSON", indented.String()
	case isText(body):
		return "text", string(body)
	}
	return "binary", strings.TrimRight(hex.Dump(body[:min(len(body), most)]), "\n")
}

// indentation is how many bytes indenting a text in JSON adds, at most.
func indentation(body []byte) (added int) {
	depth, quoted := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
			if c == '\\' {
				i++
			}
		case c == '{' || c == '[':
			depth++
			added += 1 + 2*depth
		case c == '}' || c == ']':
			depth--
			added += 1 + 2*depth
		case c == ',':
			added += 1 + 2*depth
		case c == ':':
			added++
		}
	}
	return added
}

// isText tells whether a body is text for the most part.
func isText(body []byte) bool {
	if !utf8.Valid(body) {
		return false
	}
	hidden := 0
	for _, r := range string(body) {
		if IsHidden(r) && !unicode.IsSpace(r) {
			hidden++
		}
	}
	return hidden*10 <= len(body)
}

// Difference is what was changed between two texts: the lines that both begin with, those that
// only the one or the other has, and those that both end with.
func Difference(before, after string) (begin, removed, added, end []string) {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	same := 0
	for same < min(len(a), len(b)) && a[same] == b[same] {
		same++
	}
	begin, a, b = a[:same], a[same:], b[same:]
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		end, a, b = append(end, a[len(a)-1]), a[:len(a)-1], b[:len(b)-1]
	}
	slices.Reverse(end)
	return begin, a, b, end
}

// Short is a length of time in one unit: 45s, 12m, 7h, 3d.
func Short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Short(-d)
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
