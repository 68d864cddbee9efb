package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/consumer/jsonvalue"
	"github.com/warrenmq/warren/daemon/internal/legible"
)

// defaultWidth is that of what is no terminal, in characters.
const defaultWidth = 80

// widthOf is how many characters a line of out may have.
func widthOf(out io.Writer) int {
	f, ok := out.(*os.File)
	if !ok || !onTerminal(f) {
		return defaultWidth
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return defaultWidth
	}
	return max(int(size.Col), 40)
}

// fit is text with at most so many characters.
func fit(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:max(most-1, 0)]) + "…"
}

// printable is text from others for the middle of a line: nothing in it acts on a terminal, and
// it is not too long.
func printable(text string) string {
	return fit(strings.Map(func(r rune) rune {
		if legible.IsHidden(r) {
			return ' '
		}
		return r
	}, text), defaultWidth)
}

// A table is one of lines that fit the terminal. Its last column takes what the others leave.
type table struct {
	out    io.Writer
	width  int
	titles []string
	most   []int // characters of each column but the last
	rows   [][]string
	widths []int // nil: not known yet
}

// tableRows is how many rows a table looks at to find its widths.
const tableRows = 200

func newTable(out io.Writer, titles []string, most ...int) *table {
	return &table{out: out, width: widthOf(out), titles: titles, most: most}
}

// row adds one. Texts must be visible.
func (t *table) row(cells ...string) error {
	if t.widths != nil {
		return t.print(cells)
	}
	if t.rows = append(t.rows, cells); len(t.rows) < tableRows {
		return nil
	}
	return t.flush()
}

// flush prints the rows that are held back.
func (t *table) flush() error {
	if t.widths != nil {
		return nil
	}
	t.widths = make([]int, len(t.most))
	all := append([][]string{t.titles}, t.rows...)
	for _, cells := range all {
		for i := range t.most {
			t.widths[i] = min(max(t.widths[i], utf8.RuneCountInString(cells[i])), t.most[i])
		}
	}
	for _, cells := range all {
		if err := t.print(cells); err != nil {
			return err
		}
	}
	t.rows = nil
	return nil
}

// cuts tells whether the table has less than the whole text in its last column.
func (t *table) cuts(text string) bool {
	left := t.width
	for _, width := range t.widths {
		left -= width + 2
	}
	return utf8.RuneCountInString(text) > max(left, 8)
}

func (t *table) print(cells []string) error {
	var line strings.Builder
	left := t.width
	for i, cell := range cells {
		if i == len(cells)-1 {
			line.WriteString(fit(cell, max(left, 8)))
			break
		}
		cell = fit(cell, t.widths[i])
		line.WriteString(cell + strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell)+2))
		left -= t.widths[i] + 2
	}
	_, err := fmt.Fprintln(t.out, strings.TrimRight(line.String(), " "))
	return err
}

// A format is how a list is printed.
type format struct {
	Output string `short:"o" enum:"table,json,jsonl" default:"table" placeholder:"FORMAT" help:"How to print it: as a table, as json, or as jsonl, a JSON object a line."`
}

// A listing prints the records of a list as they come.
type listing struct {
	format string
	out    io.Writer
	table  *table
	any    bool
}

// list begins a listing whose table has these columns.
func (f format) list(out io.Writer, titles []string, most ...int) *listing {
	return &listing{format: f.Output, out: out, table: newTable(out, titles, most...)}
}

// add prints a record, or the cells of its row.
func (l *listing) add(record any, cells ...string) error {
	if l.format == "table" {
		return l.table.row(cells...)
	}
	text, err := jsonvalue.Marshal(record)
	if err != nil {
		return err
	}
	before := ""
	if l.format == "json" {
		before = ",\n"
		if !l.any {
			before = "[\n"
		}
	}
	l.any = true
	after := "\n"
	if l.format == "json" {
		after = ""
	}
	_, err = fmt.Fprintf(l.out, "%s%s%s", before, text, after)
	return err
}

// end ends the list.
func (l *listing) end() error {
	var err error
	switch {
	case l.format == "table":
		err = l.table.flush()
	case l.format == "json" && l.any:
		_, err = fmt.Fprintln(l.out, "\n]")
	case l.format == "json":
		_, err = fmt.Fprintln(l.out, "[]")
	}
	return err
}

// since is how long ago that was; - if that is not known.
func since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return legible.Short(max(time.Since(t), 0))
}

// clock is an instant for a person on this machine.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
