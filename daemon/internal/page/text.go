package page

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// isolated is text from others as one line of a page: isolated from the direction of what
// is around it, and with what would not be seen as itself written as its number.
func isolated(text string) template.HTML {
	return template.HTML("<bdi>" + marked(text, false) + "</bdi>") //nolint:gosec // marked escapes
}

// plainly is text from others where no element can be, such as in a title. What would not
// be seen as itself is its number there, too.
func plainly(text string) string {
	var out strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			out.WriteRune(r)
		} else {
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// lines is text from others that keeps its lines and tabs, for a pre.
func lines(text string) template.HTML {
	return template.HTML(marked(strings.ReplaceAll(text, "\r\n", "\n"), true)) //nolint:gosec // marked escapes
}

// marked escapes text for HTML. Characters that are not seen as themselves are numbers, in
// an element of their own.
func marked(text string, keepLines bool) string {
	plain := func(r rune) bool { return unicode.IsPrint(r) || keepLines && (r == '\n' || r == '\t') }
	var out strings.Builder
	begin := 0
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		invalid := r == utf8.RuneError && size == 1
		if !invalid && plain(r) {
			i += size
			continue
		}
		out.WriteString(html.EscapeString(text[begin:i]))
		name := fmt.Sprintf(`\u%04x`, r)
		switch {
		case invalid:
			name = fmt.Sprintf(`\x%02x`, text[i])
		case r == '\n':
			name = `\n`
		case r == '\t':
			name = `\t`
		case r < 0x100:
			name = fmt.Sprintf(`\x%02x`, r)
		}
		out.WriteString(`<span class="ctl">` + name + `</span>`)
		i += size
		begin = i
	}
	out.WriteString(html.EscapeString(text[begin:]))
	return out.String()
}

// short is a length of time in its largest unit.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// ago is a time as how long it is past, or ahead, with the time itself on hover.
func ago(t time.Time) template.HTML {
	if t.IsZero() {
		return `<span class="none">–</span>`
	}
	d := time.Since(t)
	text := short(d) + " ago"
	if d < 0 {
		text = "in " + short(-d)
	}
	return timed(t, text)
}

// timed is a text that stands for a time.
func timed(t time.Time, text string) template.HTML {
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`, t.Format(time.RFC3339), t.Format("2006-01-02 15:04:05 UTC"), html.EscapeString(text))) //nolint:gosec // escaped
}

// perSecond is a number a second in few characters.
func perSecond(r float64) string {
	switch {
	case r < 0.05:
		return "0"
	case r < 10:
		return strconv.FormatFloat(r, 'f', 1, 64)
	}
	return count(int(math.Round(r)))
}

// count is a number with a comma before every three digits.
func count(n int) string {
	digits := strconv.Itoa(n)
	first := 0
	if n < 0 {
		first = 1
	}
	for i := len(digits) - 3; i > first; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// plural is n of what, of which there is one or several.
func plural(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + several
}

// size is a number of bytes.
func size(n int) string {
	switch {
	case n < 1000:
		return plural(n, "byte", "bytes")
	case n < 1_000_000:
		return strconv.FormatFloat(float64(n)/1000, 'f', 1, 64) + " kB"
	}
	return strconv.FormatFloat(float64(n)/1_000_000, 'f', 1, 64) + " MB"
}

// shownBytes is how much of a body is shown.
const shownBytes = 256 << 10

// pretty is a body for a person: JSON with its lines indented and its numbers as they are
// written, text as it is, anything else in hexadecimal.
func pretty(body []byte) (kind, text string) {
	var indented bytes.Buffer
	if utf8.Valid(body) && json.Indent(&indented, body, "", "  ") == nil {
		return "JSON", indented.String()
	}
	if isText(body) {
		return "text", string(body)
	}
	return "binary", strings.TrimRight(hex.Dump(body[:min(len(body), shownBytes/5)]), "\n")
}

// isText tells whether a body is text for the most part.
func isText(body []byte) bool {
	if !utf8.Valid(body) {
		return false
	}
	hidden := 0
	for _, r := range string(body) {
		if !unicode.IsPrint(r) && !unicode.IsSpace(r) {
			hidden++
		}
	}
	return hidden*10 <= len(body)
}

// A diffLine is a line of what was changed.
type diffLine struct {
	Sign, Text string // - or +, or a space for what has stayed
}

// difference are the lines between what both texts begin and end with, with one of these on
// either side.
func difference(before, after string) (out []diffLine) {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	begin, end := 0, 0
	for begin < min(len(a), len(b)) && a[begin] == b[begin] {
		begin++
	}
	for end < min(len(a), len(b))-begin && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	add := func(sign string, lines []string) {
		for _, line := range lines {
			out = append(out, diffLine{sign, line})
		}
	}
	add(" ", a[max(0, begin-1):begin])
	add("-", a[begin:len(a)-end])
	add("+", b[begin:len(b)-end])
	add(" ", a[len(a)-end:min(len(a), len(a)-end+1)])
	return out
}
