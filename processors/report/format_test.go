package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/xuri/excelize/v2"
	"golang.org/x/net/html"

	"github.com/warrenmq/warren/internal/pgtest"
)

// awkward has a row with a value of every type, and one of NULLs.
const awkward = `SELECT 9007199254740993::bigint AS "big", 12345678901234567890.1234567890::numeric(40,10) AS "numeric", 0.1::float4 AS "float4",
	0.1::float8 + 0.2::float8 AS "float8", 'NaN'::float8 AS "nan", true AS "yes", E'a,"b"\r\n c\t<d>&_x000D_\x01' AS "text", '' AS "empty",
	'2026-01-31'::date AS "day", '2026-01-31 12:30:00.25'::timestamp AS "local", '2026-01-31 12:30:00+00'::timestamptz AS "instant",
	'infinity'::timestamptz AS "forever", '90 min'::interval AS "span", '\x00ff10'::bytea AS "bytes", E'{"a":\n [1.50, null]}'::json AS "doc",
	'{"b": 2}'::jsonb AS "docb", ARRAY['x y', NULL] AS "list", '018f6d0e-3b52-7cc0-9d5e-6a1f2b3c4d5e'::uuid AS "id", 19.90::numeric AS "price", '=1+1' AS "=formula"
UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL`

var (
	awkwardNames = []string{"big", "numeric", "float4", "float8", "nan", "yes", "text", "empty", "day", "local", "instant", "forever", "span",
		"bytes", "doc", "docb", "list", "id", "price", "=formula"}
	awkwardTexts = []string{"9007199254740993", "12345678901234567890.1234567890", "0.1", "0.30000000000000004", "NaN", "true",
		"a,\"b\"\r\n c\t<d>&_x000D_\x01", "", "2026-01-31", "2026-01-31T12:30:00.25", "2026-01-31T12:30:00Z", "infinity", "PT1H30M",
		"AP8Q", "{\"a\":\n [1.50, null]}", `{"b": 2}`, `{"x y",NULL}`, "018f6d0e-3b52-7cc0-9d5e-6a1f2b3c4d5e", "19.90", "=1+1"}
)

// make makes the awkward report in a format.
func awkwardReport(t *testing.T, format string) (result, string) {
	t.Helper()
	// UNION ALL makes no promise of order, but nothing here would change it.
	query := strings.ReplaceAll(awkward, "::json AS", "::json::text AS")
	query = "SELECT " + `big, "numeric", float4, float8, nan, yes, text, empty, day, local, instant, forever, span, bytes, doc::json, docb, list, id, price, "=formula" FROM (` + query + ") q"
	p := newProcessor(t, Config{Reports: reports(t, map[string]string{"awkward": query}), SourceURL: pgtest.URL(t), Output: t.TempDir()})
	r, content := made(t, p, `{"report": "awkward", "format": "`+format+`"}`)
	if sum := sha256.Sum256([]byte(content)); r.Rows != 2 || r.Bytes != int64(len(content)) || r.SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("got %+v of %d bytes with the sum %x", r, len(content), sum)
	}
	return r, content
}

func TestCSV(t *testing.T) {
	r, content := awkwardReport(t, "csv")
	if filepath.Ext(r.Location) != ".csv" {
		t.Errorf("the file is called %s", r.Location)
	}
	if want := strings.Join(awkwardNames, ",") + "\r\n"; !strings.HasPrefix(content, want) {
		t.Errorf("got %.200s\nwant it to begin with %s", content, want)
	}
	if want := "\r\n" + strings.Repeat(",", len(awkwardNames)-1) + "\r\n"; !strings.HasSuffix(content, want) {
		t.Errorf("got %s\nwant it to end with %q: NULL is an empty field", content, want)
	}
	if !strings.Contains(content, `,"",2026-01-31,`) {
		t.Errorf("got %s\nwant an empty text as two quotes", content)
	}
	if !strings.Contains(content, "\"a,\"\"b\"\"\r\n c\t<d>&_x000D_\x01\"") {
		t.Errorf("got %q\nwant the text unchanged", content)
	}
	rows, err := csv.NewReader(strings.NewReader(content)).ReadAll() // it makes \n of \r\n within a field
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(awkwardTexts)
	want[6] = strings.ReplaceAll(want[6], "\r\n", "\n")
	if !slices.Equal(rows[1], want) {
		t.Errorf("got %q\nwant %q", rows[1], want)
	}
}

// A row of a single NULL is a row, too.
func TestCSVOfOneColumn(t *testing.T) {
	var b bytes.Buffer
	e := formats["csv"].encoder(&b, "")
	for _, err := range []error{e.header([]string{"x"}), e.row([]cell{{null, ""}}), e.row([]cell{{text, ""}}), e.row([]cell{{text, "a b"}}), e.end()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, want := b.String(), "x\r\n\"\"\r\n\"\"\r\na b\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestJSON(t *testing.T) {
	_, content := awkwardReport(t, "json")
	lines := strings.Split(strings.TrimSuffix(content, "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %d lines, want 2: %s", len(lines), content)
	}
	want := `{"big":9007199254740993,"numeric":12345678901234567890.1234567890,"float4":0.1,"float8":0.30000000000000004,"nan":"NaN","yes":true,` +
		`"text":"a,\"b\"\r\n c\t<d>&_x000D_\u0001","empty":"","day":"2026-01-31","local":"2026-01-31T12:30:00.25","instant":"2026-01-31T12:30:00Z",` +
		`"forever":"infinity","span":"PT1H30M","bytes":"AP8Q","doc":{"a":[1.50,null]},"docb":{"b":2},"list":"{\"x y\",NULL}",` +
		`"id":"018f6d0e-3b52-7cc0-9d5e-6a1f2b3c4d5e","price":19.90,"=formula":"=1+1"}`
	if lines[0] != want {
		t.Errorf("got %s\nwant %s", lines[0], want)
	}
	var nulls map[string]any
	if err := json.Unmarshal([]byte(lines[1]), &nulls); err != nil || len(nulls) != len(awkwardNames) || nulls["big"] != nil || nulls["doc"] != nil {
		t.Errorf("got %s, %v, want NULLs", lines[1], err)
	}
}

func TestHTML(t *testing.T) {
	_, content := awkwardReport(t, "html")
	var rows [][]string
	page, err := html.Parse(strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	for n := range page.Descendants() {
		switch {
		case n.Data == "tr" && n.Type == html.ElementNode:
			rows = append(rows, nil)
		case n.Data == "th" || n.Data == "td":
			text := ""
			if n.FirstChild != nil {
				text = n.FirstChild.Data
			}
			rows[len(rows)-1] = append(rows[len(rows)-1], text)
		case n.Data == "script" || n.Data == "link" || n.Data == "img":
			t.Errorf("the page has a %s", n.Data)
		}
	}
	want := slices.Clone(awkwardTexts)
	want[6] = strings.ReplaceAll(want[6], "\r\n", "\n") // as HTML is parsed
	if len(rows) != 3 || !slices.Equal(rows[0], awkwardNames) || !slices.Equal(rows[1], want) {
		t.Errorf("got %q\nwant %q\n%q", rows, awkwardNames, want)
	}
	if !strings.Contains(content, "<p>Rows: 2</p>") || !strings.Contains(content, "<title>awkward</title>") {
		t.Errorf("got %s", content)
	}
}

func TestXLSX(t *testing.T) {
	r, content := awkwardReport(t, "xlsx")
	f, err := excelize.OpenReader(strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sheet := f.GetSheetName(0)
	rows, err := f.GetRows(sheet, excelize.Options{RawCellValue: true})
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(awkwardTexts)
	want[5] = "1"
	if len(rows) < 2 || len(rows) > 3 || !slices.Equal(rows[0], awkwardNames) || !slices.Equal(rows[1], want) {
		t.Errorf("%s: got %q\nwant %q\n%q", r.Location, rows, awkwardNames, want)
	}
	for i, wantType := range map[int]excelize.CellType{
		0:  excelize.CellTypeInlineString, // a number of 16 digits
		1:  excelize.CellTypeInlineString,
		2:  excelize.CellTypeUnset, // a number
		3:  excelize.CellTypeUnset,
		4:  excelize.CellTypeInlineString,
		5:  excelize.CellTypeBool,
		18: excelize.CellTypeUnset,
		19: excelize.CellTypeInlineString, // and no formula
	} {
		name := columnName(i) + "2"
		if got, err := f.GetCellType(sheet, name); err != nil || got != wantType {
			t.Errorf("%s (%s) is of type %v, %v; want %v", name, awkwardNames[i], got, err, wantType)
		}
	}
}

func TestExactNumbers(t *testing.T) {
	for number, want := range map[string]bool{
		"0": true, "-1.50": true, "999999999999999": true, "9007199254740992": false, "9007199254740993": false,
		"0.30000000000000004": true, "1.2345678901234568e+16": true, "1234567890123456.78": false, "1e300": true,
		"100000000000000000000": true, "1000000000000000.000": true, "0.1000000000000000055511151231257827": false,
		"1" + strings.Repeat("0", 400): false, "0." + strings.Repeat("0", 400) + "1": false, "0.00": true,
	} {
		if got := isExact(number); got != want {
			t.Errorf("%s: got %v, want %v", number, got, want)
		}
	}
}

func TestColumnNames(t *testing.T) {
	for i := range maxSheetColumns {
		want, err := excelize.ColumnNumberToName(i + 1)
		if err != nil {
			t.Fatal(err)
		}
		if got := columnName(i); got != want {
			t.Fatalf("column %d is %s, want %s", i, got, want)
		}
	}
}

func TestTextsThatXMLCannotHold(t *testing.T) {
	texts := []string{"_x0041_", "_x005F_x0041_", "_", "__x0041_", "\x00\x1f\x0b", "\ufffe\uffff\U0001f600", " a ", "\r", "\n\t", "&<>\"'", "_x00", "_x00g1_"}
	var b bytes.Buffer
	e := newXLSX(&b, "")
	cells := make([]cell, len(texts))
	for i, s := range texts {
		cells[i] = cell{text, s}
	}
	for _, err := range []error{e.header(texts), e.row(cells), e.end()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := excelize.OpenReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i, want := range texts {
		if got, err := f.GetCellValue("Report", columnName(i)+"2"); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestLimitsOfASheet(t *testing.T) {
	e := newXLSX(io.Discard, "").(*xlsxEncoder)
	check(t, e.header(make([]string, maxSheetColumns+1)), "dead", "16385 columns", "at most 16384", "csv or json")

	e = newXLSX(io.Discard, "").(*xlsxEncoder)
	if err := e.header([]string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	smile := "\U0001f600"
	if err := e.row([]cell{{text, strings.Repeat(smile, maxCellUnits/2)}, {text, strings.Repeat("x", maxCellUnits)}}); err != nil {
		t.Error(err)
	}
	check(t, e.row([]cell{{number, "1"}, {text, strings.Repeat(smile, maxCellUnits/2+1)}}), "dead", "row 2, column B has 32768 characters", "at most 32767")

	e.rows = maxSheetRows - 1
	if err := e.row([]cell{{number, "1"}, {null, ""}}); err != nil {
		t.Error(err)
	}
	check(t, e.row([]cell{{number, "1"}, {null, ""}}), "dead", "1,048,575 rows", "csv or json")
}

func TestTypesOfSQLite(t *testing.T) {
	url := sqliteURL(t)
	execute(t, url, `CREATE TABLE t (i INTEGER, r REAL, s TEXT, b BLOB, d DATE, ts TIMESTAMP, yes BOOLEAN, none TEXT);
		INSERT INTO t VALUES (9007199254740993, 0.1, 'a,b', x'00ff10', '2026-01-31', '2026-01-31 12:30:00.25', 1, NULL)`)
	p := newProcessor(t, Config{Reports: reports(t, map[string]string{"t": "SELECT *, 1e999 AS inf, CAST(x'ff' AS TEXT) AS broken FROM t"}), SourceURL: url, Output: t.TempDir()})
	_, got := made(t, p, `{"report": "t", "format": "json"}`)
	want := `{"i":9007199254740993,"r":0.1,"s":"a,b","b":"AP8Q","d":"2026-01-31","ts":"2026-01-31T12:30:00.25Z","yes":true,"none":null,"inf":"+Inf","broken":"` + "\ufffd" + `"}` + "\n"
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// Whatever the format, no row is a file as well.
func TestNoRows(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		p := newProcessor(t, Config{Reports: reports(t, map[string]string{"none": "SELECT 1 AS a, 'x' AS b WHERE 1 = 0"}), SourceURL: url, Output: t.TempDir()})
		for name, want := range map[string]string{"csv": "a,b\r\n", "json": "", "html": "<th>a</th><th>b</th>", "xlsx": "PK"} {
			r, content := made(t, p, `{"report": "none", "format": "`+name+`"}`)
			if r.Rows != 0 || !strings.Contains(content, want) {
				t.Errorf("%s: got %+v and %q, want %q", name, r, content, want)
			}
		}
	})
}

func TestTimesOfPostgres(t *testing.T) {
	for in, want := range map[string]string{
		"2026-01-31 12:30:00+00":       "2026-01-31T12:30:00Z",
		"2026-01-31 12:30:00.5+05:30":  "2026-01-31T12:30:00.5+05:30",
		"2026-01-31 12:30:00-08":       "2026-01-31T12:30:00-08:00",
		"2026-01-31 12:30:00":          "2026-01-31T12:30:00",
		"-infinity":                    "-infinity",
		"0044-03-15 12:00:00+00 BC":    "0044-03-15 12:00:00+00 BC",
		"1880-01-01 00:00:00+00:53:28": "1880-01-01T00:00:00+00:53:28",
	} {
		if got := rfc3339(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func BenchmarkFormats(b *testing.B) {
	cells := []cell{{number, "12345"}, {text, "Ada Lovelace"}, {text, "2026-01-31T12:30:00Z"}, {number, "19.90"}, {null, ""}}
	for name, f := range formats {
		b.Run(name, func(b *testing.B) {
			e := f.encoder(io.Discard, "bench")
			if err := e.header([]string{"id", "name", "at", "price", "note"}); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if x, ok := e.(*xlsxEncoder); ok {
					x.rows = 1
				}
				if err := e.row(cells); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
