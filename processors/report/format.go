package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"strings"

	"github.com/warrenmq/warren/consumer"
)

// A cell is a value of a row.
type cell struct {
	kind kind
	text string
}

// A kind is how a value is written in formats that tell types apart. binary and
// timestamp are those of columns: their cells are text.
type kind int

const (
	null kind = iota
	text
	number // as JSON has it
	boolean
	jsonValue
	binary
	timestamp
)

// An encoder writes rows in a format. header is called once, before the first row.
type encoder interface {
	header(columns []string) error
	row(cells []cell) error // which are not kept
	end() error
}

// A format is what a message asks for by name.
type format struct {
	extension, contentType string
	encoder                func(w io.Writer, report string) encoder
}

var formats = map[string]format{
	"csv":  {".csv", "text/csv; charset=utf-8; header=present", func(w io.Writer, _ string) encoder { return &csvEncoder{w: w} }},
	"json": {".jsonl", "application/jsonl", func(w io.Writer, _ string) encoder { return &jsonEncoder{w: w} }},
	"html": {".html", "text/html; charset=utf-8", func(w io.Writer, report string) encoder { return &htmlEncoder{w: w, report: report} }},
	"xlsx": {".xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", newXLSX},
}

// A csvEncoder writes CSV as in RFC 4180. NULL is an empty field, an empty text two
// quotes. encoding/csv tells neither apart, and changes the line breaks in a text.
type csvEncoder struct {
	w   io.Writer
	buf []byte
}

func (e *csvEncoder) header(columns []string) error {
	cells := make([]cell, len(columns))
	for i, c := range columns {
		cells[i] = cell{text, c}
	}
	return e.row(cells)
}

func (e *csvEncoder) row(cells []cell) error {
	e.buf = e.buf[:0]
	for i, c := range cells {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		// Of a single column, a row of nothing at all would be taken for none.
		quoted := c.kind != null && c.text == "" || c.kind == null && len(cells) == 1 || strings.ContainsAny(c.text, "\",\r\n")
		if !quoted {
			e.buf = append(e.buf, c.text...)
			continue
		}
		e.buf = append(e.buf, '"')
		e.buf = append(e.buf, strings.ReplaceAll(c.text, `"`, `""`)...)
		e.buf = append(e.buf, '"')
	}
	e.buf = append(e.buf, "\r\n"...)
	_, err := e.w.Write(e.buf)
	return err
}

func (e *csvEncoder) end() error { return nil }

// A jsonEncoder writes JSON Lines: an object for each row.
type jsonEncoder struct {
	w    io.Writer
	keys [][]byte // with what stands before and behind
	buf  bytes.Buffer
}

func (e *jsonEncoder) header(columns []string) error {
	seen := make(map[string]bool)
	for i, c := range columns {
		if seen[c] {
			return consumer.Permanent(fmt.Errorf("two columns are called %s, which an object cannot have: name them with AS", c))
		}
		seen[c] = true
		if i == 0 {
			e.buf.WriteByte('{')
		} else {
			e.buf.WriteByte(',')
		}
		if err := e.text(c); err != nil {
			return err
		}
		e.buf.WriteByte(':')
		e.keys = append(e.keys, bytes.Clone(e.buf.Bytes()))
		e.buf.Reset()
	}
	return nil
}

func (e *jsonEncoder) row(cells []cell) error {
	e.buf.Reset()
	for i, c := range cells {
		e.buf.Write(e.keys[i])
		var err error
		switch c.kind {
		case null:
			e.buf.WriteString("null")
		case number, boolean:
			e.buf.WriteString(c.text)
		case jsonValue:
			err = json.Compact(&e.buf, []byte(c.text)) // on one line
		default:
			err = e.text(c.text)
		}
		if err != nil {
			return err
		}
	}
	e.buf.WriteString("}\n")
	_, err := e.buf.WriteTo(e.w)
	return err
}

func (e *jsonEncoder) text(s string) error {
	enc := json.NewEncoder(&e.buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(s)
	e.buf.Truncate(e.buf.Len() - 1) // the line break
	return err
}

func (e *jsonEncoder) end() error { return nil }

// An htmlEncoder writes a page that needs nothing else.
type htmlEncoder struct {
	w      io.Writer
	report string
	rows   int64
}

const pageHead = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>%[1]s</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; }
table { border-collapse: collapse; }
th, td { border: 1px solid #ccc; padding: .2em .6em; text-align: left; vertical-align: top; white-space: pre-wrap; }
th { background: #eee; position: sticky; top: 0; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
</style>
</head>
<body>
<h1>%[1]s</h1>
<table>
<thead><tr>`

func (e *htmlEncoder) header(columns []string) error {
	var b strings.Builder
	fmt.Fprintf(&b, pageHead, html.EscapeString(e.report))
	for _, c := range columns {
		b.WriteString("<th>" + html.EscapeString(c) + "</th>")
	}
	b.WriteString("</tr></thead>\n<tbody>\n")
	_, err := io.WriteString(e.w, b.String())
	return err
}

func (e *htmlEncoder) row(cells []cell) error {
	e.rows++
	var b strings.Builder
	b.WriteString("<tr>")
	for _, c := range cells {
		if c.kind == number {
			b.WriteString(`<td class="n">`)
		} else {
			b.WriteString("<td>")
		}
		b.WriteString(html.EscapeString(c.text) + "</td>")
	}
	b.WriteString("</tr>\n")
	_, err := io.WriteString(e.w, b.String())
	return err
}

func (e *htmlEncoder) end() error {
	_, err := fmt.Fprintf(e.w, "</tbody>\n</table>\n<p>Rows: %d</p>\n</body>\n</html>\n", e.rows)
	return err
}
