package report

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/warrenmq/warren/consumer"
)

// What a sheet can hold.
const (
	maxSheetRows    = 1_048_576 // that of the names included
	maxSheetColumns = 16_384
	maxCellUnits    = 32_767 // of UTF-16
	maxExactDigits  = 15     // of a number
)

// An xlsxEncoder writes a workbook with one sheet. It is written as it comes, with
// nothing kept: excelize, which is made for workbooks that change, keeps all of one
// in memory, and cuts texts that are too long.
type xlsxEncoder struct {
	zip     *zip.Writer
	sheet   io.Writer
	columns []string // A, B, ... AA, ...
	rows    int
	buf     []byte
}

// workbook are the other parts.
var workbook = []struct{ name, content string }{
	{"[Content_Types].xml", xmlHead + `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">` +
		`<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>` +
		`<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>` +
		`<Override PartName="/xl/worksheets/sheet1.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>`},
	{"_rels/.rels", xmlHead + `<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">` +
		`<Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/></Relationships>`},
	{"xl/_rels/workbook.xml.rels", xmlHead + `<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">` +
		`<Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" Target="worksheets/sheet1.xml"/></Relationships>`},
	{"xl/workbook.xml", xmlHead + `<workbook xmlns="` + mainNamespace + `" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">` +
		`<sheets><sheet name="Report" sheetId="1" r:id="rId1"/></sheets></workbook>`},
}

const (
	xmlHead       = `<?xml version="1.0" encoding="UTF-8" standalone="yes"?>` + "\n"
	mainNamespace = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
)

func newXLSX(w io.Writer, _ string) encoder { return &xlsxEncoder{zip: zip.NewWriter(w)} }

func (e *xlsxEncoder) header(columns []string) error {
	if len(columns) > maxSheetColumns {
		return consumer.Permanent(fmt.Errorf("it has %d columns, and a sheet at most %d: ask for csv or json", len(columns), maxSheetColumns))
	}
	for _, part := range workbook {
		w, err := e.zip.Create(part.name)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, part.content); err != nil {
			return err
		}
	}
	var err error
	if e.sheet, err = e.zip.Create("xl/worksheets/sheet1.xml"); err != nil {
		return err
	}
	if _, err := io.WriteString(e.sheet, xmlHead+`<worksheet xmlns="`+mainNamespace+`"><sheetData>`); err != nil {
		return err
	}
	names := make([]cell, len(columns))
	for i, c := range columns {
		e.columns = append(e.columns, columnName(i))
		names[i] = cell{text, c}
	}
	return e.row(names)
}

// columnName is that of the column with that index: A, B, ... Z, AA, ...
func columnName(i int) string {
	name := string(rune('A' + i%26))
	if i < 26 {
		return name
	}
	return columnName(i/26-1) + name
}

var errSheetFull = consumer.Permanent(errors.New("it has more than the 1,048,575 rows that a sheet can hold below its names: ask for csv or json, or for less with a parameter"))

func (e *xlsxEncoder) row(cells []cell) error {
	if e.rows == maxSheetRows {
		return errSheetFull
	}
	e.rows++
	row := strconv.Itoa(e.rows)
	e.buf = append(append(append(e.buf[:0], `<row r="`...), row...), `">`...)
	for i, c := range cells {
		if c.kind == null {
			continue
		}
		e.buf = append(append(append(append(e.buf, `<c r="`...), e.columns[i]...), row...), '"')
		switch {
		case c.kind == number && isExact(c.text):
			e.buf = append(append(append(e.buf, `><v>`...), c.text...), `</v></c>`...)
		case c.kind == boolean:
			e.buf = append(append(append(e.buf, ` t="b"><v>`...), bit(c.text)), `</v></c>`...)
		default:
			escaped, units := escapeXML(c.text)
			if units > maxCellUnits {
				return consumer.Permanent(fmt.Errorf("the text in row %d, column %s has %d characters, and a cell at most %d: ask for csv or json",
					e.rows-1, e.columns[i], units, maxCellUnits))
			}
			e.buf = append(append(append(e.buf, ` t="inlineStr"><is><t xml:space="preserve">`...), escaped...), `</t></is></c>`...)
		}
	}
	e.buf = append(e.buf, `</row>`...)
	_, err := e.sheet.Write(e.buf)
	return err
}

func bit(boolean string) byte {
	if boolean == "true" {
		return '1'
	}
	return '0'
}

// isExact tells whether a program that counts with 64-bit floating point, as all do,
// keeps every digit of a number, and shows all of a whole one.
func isExact(number string) bool {
	given := digits(number)
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f == 0 && given != "" { // too large, or too near to zero
		return false
	}
	return len(given) <= maxExactDigits || strings.Contains(number, ".") && digits(strconv.FormatFloat(f, 'e', -1, 64)) == given
}

// digits are those of a number that count.
func digits(number string) string {
	mantissa, _, _ := strings.Cut(strings.ToLower(number), "e")
	return strings.TrimRight(strings.TrimLeft(strings.NewReplacer("-", "", ".", "").Replace(mantissa), "0"), "0")
}

// escapeXML returns s as the content of an element, and its length in UTF-16. What
// XML cannot hold has a form of its own in this format, as has what looks like that.
func escapeXML(s string) (string, int) {
	units, plain := 0, true
	for _, r := range s {
		units += utf16.RuneLen(r)
		plain = plain && r >= ' ' && r != '<' && r != '>' && r != '&' && r != '_' && r < 0xfffe
	}
	if plain {
		return s, units
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '&':
			b.WriteString("&amp;")
		case r == '_' && looksEscaped(s[i:]):
			b.WriteString("_x005F_")
		case r < ' ' && r != '\t' && r != '\n', r == 0xfffe, r == 0xffff:
			fmt.Fprintf(&b, "_x%04X_", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String(), units
}

// looksEscaped tells whether s begins as _x0000_ does.
func looksEscaped(s string) bool {
	if len(s) < 7 || s[1] != 'x' || s[6] != '_' {
		return false
	}
	_, err := strconv.ParseUint(s[2:6], 16, 16)
	return err == nil
}

func (e *xlsxEncoder) end() error {
	if _, err := io.WriteString(e.sheet, `</sheetData></worksheet>`); err != nil {
		return err
	}
	return e.zip.Close()
}
