package page

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/warrenmq/warren/daemon/internal/legible"
)

// isolated is text from others as one line of a page: isolated from the direction of what
// is around it, and with what would not be seen as itself written as its number.
func isolated(text string) template.HTML {
	return template.HTML("<bdi>" + marked(text, false) + "</bdi>") //nolint:gosec // marked escapes
}

// marked escapes text for HTML. Hidden characters are numbers, in an element of their own.
func marked(text string, lines bool) string {
	var out strings.Builder
	for part, hidden := range legible.Parts(text, lines) {
		part = html.EscapeString(part)
		if hidden {
			part = `<span class="ctl">` + part + `</span>`
		}
		out.WriteString(part)
	}
	return out.String()
}

// lines is text from others that keeps its lines and tabs, for a pre.
func lines(text string) template.HTML {
	return template.HTML(marked(text, true)) //nolint:gosec // marked escapes
}

// short is a length of time in one unit; below a second that is milliseconds.
func short(d time.Duration) string {
	if d > 0 && d < time.Second {
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	}
	return legible.Short(max(d, 0))
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

// A diffLine is a line of what was changed.
type diffLine struct {
	Sign, Text string // - or +, or a space for what has stayed
}

// difference is what an edit has changed, with a line on either side.
func difference(before, after string) (out []diffLine) {
	begin, removed, added, end := legible.Difference(before, after)
	add := func(sign string, lines []string) {
		for _, line := range lines {
			out = append(out, diffLine{sign, line})
		}
	}
	add(" ", begin[max(0, len(begin)-1):])
	add("-", removed)
	add("+", added)
	add(" ", end[:min(len(end), 1)])
	return out
}
