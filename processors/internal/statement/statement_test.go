package statement

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/internal/pgtest"
)

// folder makes one with the files, by name.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestStatements(t *testing.T) {
	for _, test := range []struct{ name, text, postgres, sqlite string }{
		{"plain", "SELECT 1;\n", "SELECT 1", "SELECT 1"},
		{"a name twice", "-- param: a int\nSELECT :a, :a", "SELECT ($1::bigint), ($1::bigint)", "SELECT $1, $1"},
		{"in the order of use", "-- param: a text\n-- param: b date\nSELECT :b||:a;", "SELECT ($1::date)||($2::text)", "SELECT $1||$2"},
		{"casts and named notation", "-- param: a decimal\nSELECT :a::int, x::text, f(y := 1)",
			"SELECT ($1::numeric)::int, x::text, f(y := 1)", "SELECT CAST($1 AS NUMERIC)::int, x::text, f(y := 1)"},
		{"literals and names", `-- param: a bool` + "\n" + `SELECT ':b', '':c'', ":d", ' '' :e', :a`, "", ""},
		{"comments", "-- Says :what.\n-- param: a uuid\nSELECT /* :b; */ :a -- :c;\n;-- :d\n/* :e */",
			"SELECT /* :b; */ ($1::uuid) -- :c;\n-- :d\n/* :e */", "SELECT /* :b; */ $1 -- :c;\n-- :d\n/* :e */"},
		{"a list", "-- param: a int[]\nSELECT x = ANY(:a)", "SELECT x = ANY(($1::bigint[]))", "SELECT x = ANY($1)"},
		{"a BOM and CRLF", "\ufeff-- param: a text = \"x\"\r\nSELECT :a\r\n", "SELECT ($1::text)", "SELECT $1"},
		{"an address in a comment", "-- https://example.com/doc\nSELECT 1", "SELECT 1", "SELECT 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for d, want := range []string{test.postgres, test.sqlite} {
				if want == "" {
					continue
				}
				got, faults := parse(test.text, Dialect(d), nil)
				if len(faults) > 0 || got.sql != want {
					t.Errorf("dialect %d: got %q, %v\nwant %q", d, got.sql, faults, want)
				}
			}
		})
	}
}

// PostgreSQL and SQLite have literals that the other has not.
func TestLiteralsOfEachDialect(t *testing.T) {
	for text, want := range map[string][2]bool{ // without a fault in PostgreSQL, in SQLite
		`SELECT E'\':a'`:             {true, false},
		`SELECT '\', ':a'`:           {true, true},
		`SELECT $$:a$$, $x$:b $$$x$`: {true, false},
		`SELECT [:a], ` + "`:b`":     {false, true},
		`SELECT /* /* */ :a */ 1`:    {true, false},
		`SELECT a[1: n]`:             {true, true},
		`SELECT a[1:n]`:              {false, true},
		`SELECT x$1, 'a'`:            {true, true},
		`SELECT $1`:                  {false, false},
		`SELECT ?`:                   {true, false},
		`SELECT @a`:                  {true, false},
		`SELECT '{}'::jsonb @> b`:    {true, true},
	} {
		for d := range want {
			if _, faults := parse(text, Dialect(d), nil); (len(faults) == 0) != want[d] {
				t.Errorf("dialect %d: %s: got %v, want no fault: %v", d, text, faults, want[d])
			}
		}
	}
}

// What PostgreSQL itself takes for parameters is what we have made.
func TestPostgresAgrees(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	const head = "-- param: a int\n-- param: b text\n-- param: c timestamp\n-- param: d date[]\n"
	for _, body := range []string{
		`SELECT :a, :b, :c, :d`,
		`SELECT :a + 1, :b || ':b' || E'\':b' || U&'\0061:b', date_trunc('day', :c), current_date = ANY(:d) GROUP BY :b::text`,
		`SELECT $$ :x $$ || $y$ :z $$ $y$ || :b, "a:x" FROM (SELECT 1 AS "a:x") q WHERE now() > :c OR :a=1 OR '2026-01-01'::date=ANY(:d)`,
		`SELECT (ARRAY[1,2,3])[1 : :a], :b::name, :c AT TIME ZONE 'UTC', (:d)[1] LIMIT :a`,
		"SELECT -:a/* /* :x */ ; */, :b --;:x\n, :c, :d -- ':x",
		`SELECT jsonb_build_object('a', :a) @> '{"a:x": 1}', jsonb '{}' ? :b, :c, :d`,
	} {
		st, faults := parse(head+body, Postgres, nil)
		if len(faults) > 0 {
			t.Errorf("%s: %v", body, faults)
			continue
		}
		prepared, err := conn.Prepare(t.Context(), "", st.sql)
		if err != nil {
			t.Errorf("%s: %v", st.sql, err)
			continue
		}
		if got := len(prepared.ParamOIDs); got != 4 || len(st.used) != 4 {
			t.Errorf("%s: PostgreSQL sees %d parameters, we %d, want 4", st.sql, got, len(st.used))
		}
	}
}

func TestEveryFaultOfEveryFile(t *testing.T) {
	dir := folder(t, map[string]string{
		"good.sql":      "-- param: a int\nSELECT :a",
		"README.md":     "not SQL :x",
		"bad name.sql":  "SELECT 1",
		"empty.sql":     "-- Nothing.\n",
		"two.sql":       "SELECT 1;\nDELETE FROM orders",
		"latin1.sql":    "SELECT '\xe9'",
		"open.sql":      "SELECT 1,\n 'it",
		"parameter.sql": "-- parm: x int\n-- param: x integer\n-- param: Y int\n-- param: z int = \"a\"\n-- param: u text\n-- param: u text\n-- timeout: soon\nSELECT :z, :v\n",
		"late.sql":      "SELECT 1\n-- timeout: 5m\n",
	})
	_, err := Load("REPORTS", dir, "report", Postgres)
	if err == nil {
		t.Fatal("got no error")
	}
	want := []string{
		"bad name.sql: a name is made of",
		"empty.sql:2: there is no statement",
		"late.sql:2: timeout: must stand above",
		"latin1.sql:1: it is not UTF-8",
		"open.sql:2: the closing ' is missing",
		`parameter.sql:1: "parm:" is unknown`,
		`parameter.sql:2: parameter x has the unknown type "integer"; there are: bool, date,`,
		`parameter.sql:3: param "Y int" is not of the form`,
		"parameter.sql:4: the default of parameter z: it must be of type int, such as 42",
		"parameter.sql:5: parameter u is not used",
		"parameter.sql:6: parameter u is declared twice",
		`parameter.sql:7: timeout is "soon"`,
		"parameter.sql:8: parameter :v is not declared",
		"two.sql:2: a second statement begins",
	}
	got := strings.Split(err.Error(), "\n")
	for i, line := range got {
		if i >= len(want) || !strings.HasPrefix(line, "REPORTS: "+dir+"/"+want[i]) {
			t.Errorf("got %s\nwant %q", line, want[min(i, len(want)-1)])
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d faults, want %d", len(got), len(want))
	}

	for dir, want := range map[string]string{
		"":                "REPORTS is not set",
		"/nonexistent":    "no such file or directory: name a folder",
		folder(t, nil):    "has no .sql file",
		filepath.Dir(dir): "has no .sql file",
	} {
		if _, err := Load("REPORTS", dir, "report", Postgres); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", dir, err, want)
		}
	}
}

func TestVerbs(t *testing.T) {
	for text, want := range map[string]string{
		"select 1": "", "-- a comment\n(/* another */ SELECT 1) UNION SELECT 2": "", "WITH x AS (SELECT 1) SELECT * FROM x": "",
		"COPY t TO PROGRAM 'sh'":                "it begins with COPY: it must begin with one of SELECT, WITH",
		"-- param: n int\n\nATTACH :n AS other": "it begins with ATTACH",
		"/* SELECT */ vacuum INTO 'x'":          "it begins with vacuum",
		"\"SELECT\" 1":                          "it begins with \"",
		"SELECTS 1":                             "it begins with SELECTS",
	} {
		for _, d := range []Dialect{Postgres, SQLite} {
			_, faults := parse(text, d, []string{"SELECT", "WITH"})
			switch {
			case want == "" && len(faults) > 0:
				t.Errorf("%s: got %v, want no fault", text, faults)
			case want != "" && (len(faults) != 1 || !strings.HasPrefix(faults[0].text, want) || faults[0].line != 1+strings.Count(text, "\n")):
				t.Errorf("%s: got %v, want %s", text, faults, want)
			}
		}
	}
}

func TestBind(t *testing.T) {
	dir := folder(t, map[string]string{
		"all.sql": `-- param: te text
-- param: i int
-- param: f float
-- param: de decimal
-- param: b bool
-- param: da date
-- param: ti timestamp
-- param: u uuid
-- param: j json
-- param: l text[] = []
-- param: n int = null
-- timeout: 90s
SELECT :te, :i, :f, :de, :b, :da, :ti, :u, :j, :l, :n`,
	})
	params := `{"te": "a'\"", "i": -9223372036854775808, "f": 1e300, "de": 0.10, "b": true, "da": "2024-02-29",
		"ti": "2026-03-01T00:30:00.5+01:00", "u": "018F6d0e-3b52-7cc0-9d5e-6a1f2b3c4d5e", "j": {"a": [1]}, "l": ["a\"\\", "{,}", ""]}`
	for d, want := range [][]any{
		{`a'"`, "-9223372036854775808", "1e+300", "0.10", "true", "2024-02-29", "2026-03-01T00:30:00.5+01:00",
			"018F6d0e-3b52-7cc0-9d5e-6a1f2b3c4d5e", `{"a": [1]}`, `{"a\"\\","{,}",""}`, nil},
		{`a'"`, int64(-9223372036854775808), 1e300, "0.10", true, "2024-02-29", "2026-02-28 23:30:00.5",
			"018F6d0e-3b52-7cc0-9d5e-6a1f2b3c4d5e", `{"a": [1]}`, `["a\"\\","{,}",""]`, nil},
	} {
		set, err := Load("REPORTS", dir, "report", Dialect(d))
		if err != nil {
			t.Fatal(err)
		}
		got, err := set.Bind("all", object(t, params))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Args, want) || got.Timeout.Seconds() != 90 || got.Name != "all" {
			t.Errorf("dialect %d: got %#v\nwant %#v", d, got.Args, want)
		}
	}
}

func object(t testing.TB, text string) (params map[string]json.RawMessage) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &params); err != nil {
		t.Fatal(err)
	}
	return params
}

func TestWrongParametersAreDead(t *testing.T) {
	files := map[string]string{"sales.sql": "-- param: since date\n-- param: top int = 10\nSELECT :since, :top", "other.sql": "SELECT 1"}
	for name := range types {
		files[name+".sql"] = fmt.Sprintf("-- param: x %s\n-- param: l %[1]s[]\nSELECT :x, :l", name)
	}
	set, err := Load("REPORTS", folder(t, files), "report", Postgres)
	if err != nil {
		t.Fatal(err)
	}
	_, err = set.Bind("sails", nil)
	check := func(err error, texts ...string) {
		t.Helper()
		if got := consumertest.Verdict(err); got != "dead" {
			t.Errorf("got %s (%v), want dead", got, err)
			return
		}
		for _, text := range texts {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("got %v\nwant %q in it", err, text)
			}
		}
	}
	check(err, `there is no report "sails"; there are: bool, date,`, "sales")
	_, err = set.Bind("sales", object(t, `{"top": "many", "until": 1}`))
	check(err, "report sales: params.since is missing, it must be of type date", "params.top: it must be of type int", "params.until is unknown",
		"its parameters are: since date, top int = 10")
	_, err = set.Bind("other", object(t, `{"x": 1}`))
	check(err, "params.x is unknown; its parameters are: none")
	_, err = set.Bind("sales", object(t, `{"since": null}`))
	check(err, "params.since: it is null")

	for name, values := range map[string][]string{
		"text":      {`1`, `true`, `["a"]`, `"a\u0000"`, `{}`},
		"int":       {`"1"`, `1.5`, `1e3`, `9223372036854775808`, `true`},
		"float":     {`"1"`, `1e400`, `"NaN"`},
		"decimal":   {`"1,5"`, `"NaN"`, `"1e999"`, `"0x10"`, `""`, `true`},
		"bool":      {`"true"`, `1`, `0`},
		"date":      {`"2026-02-30"`, `"2026-1-1"`, `"2026-01-01T00:00:00Z"`, `20260101`, `"today"`},
		"timestamp": {`"2026-01-01 00:00:00"`, `"2026-01-01T00:00:00"`, `1767225600`},
		"uuid":      {`"018f6d0e3b527cc09d5e6a1f2b3c4d5e"`, `"x"`},
	} {
		for _, v := range values {
			_, err := set.Bind(name, object(t, `{"x": `+v+`, "l": []}`))
			check(err, "params.x: it must be of type "+name)
			_, err = set.Bind(name, object(t, `{"x": `+v+`, "l": [`+v+`]}`))
			check(err, "element 0: it must be of type "+name+"[]")
		}
	}
}

// What is parsed without a fault is what was written, but for its parameters.
func FuzzParse(f *testing.F) {
	f.Add("-- param: a int = 1\n-- param: b text[]\n-- timeout: 5m\nSELECT :a::text, ':a', $$ :b $$ FROM x WHERE y = ANY(:b); -- :a", true)
	f.Add("SELECT E'\\'', /* /* */ */ [a], `b`, \"c\" ?; ;", false)
	f.Fuzz(func(t *testing.T, text string, postgres bool) {
		d := SQLite
		if postgres {
			d = Postgres
		}
		st, faults := parse(text, d, nil)
		lines := 1 + strings.Count(text, "\n")
		for _, f := range faults {
			if f.line < 1 || f.line > lines || f.text == "" {
				t.Errorf("got a fault in line %d of %d: %q", f.line, lines, f.text)
			}
		}
		if len(faults) > 0 || strings.Contains(text, "$") {
			return
		}
		back := st.sql
		for n, i := range st.used {
			back = strings.ReplaceAll(back, st.params[i].placeholder(n+1), ":"+st.params[i].name)
		}
		if !strings.Contains(strings.ReplaceAll(text, ";", ""), strings.ReplaceAll(back, ";", "")) {
			t.Errorf("got %q of %q", st.sql, text)
		}
	})
}

// TestTheRemedyOfADefaultCures writes it as JSON, as the error says.
func TestTheRemedyOfADefaultCures(t *testing.T) {
	_, faults := parse("-- param: a text = x\nSELECT :a", 0, nil)
	if len(faults) != 1 || !strings.Contains(fmt.Sprint(faults), "write it as JSON") {
		t.Fatalf("the faults %v do not name the remedy", faults)
	}
	if _, faults = parse("-- param: a text = \"x\"\nSELECT :a", 0, nil); len(faults) != 0 {
		t.Errorf("with the remedy followed: %v", faults)
	}
}
