// Package statement reads named SQL: a folder with a file for each, whose first
// comments declare its parameters.
//
//	-- Orders of a time, with their lines.
//	-- param: since timestamp
//	-- param: status text = "paid"
//	-- timeout: 2m
//	SELECT * FROM orders WHERE placed_at >= :since AND status = :status
//
// The name is that of the file, without .sql. A parameter without a default must be
// given; one with the default null may be null. Defaults are written as JSON.
// Parameters reach the database as such, and never as a piece of its SQL.
package statement

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer"
)

// A Dialect is the SQL that a database understands.
type Dialect int

// The dialects.
const (
	Postgres Dialect = iota
	SQLite
)

// DialectOf is that of the database at a URL which package database takes.
func DialectOf(url string) Dialect {
	if strings.HasPrefix(url, "sqlite:") {
		return SQLite
	}
	return Postgres
}

// A Set is the named statements of a folder. It may be used by any number of
// goroutines.
type Set struct {
	kind       string
	statements map[string]*statement
}

// A statement is one of them.
type statement struct {
	params  []param // in the order of their declaration
	timeout time.Duration
	sql     string // with $1, $2, ... for used
	used    []int  // what each is, in params
}

// Bound is a statement together with its arguments.
type Bound struct {
	Name    string
	SQL     string
	Args    []any
	Timeout time.Duration // zero: none of its own
}

// Load reads the .sql files of the folder that a variable names. kind is what
// messages call a statement; verbs are what one may begin with, if there are any. The
// error joins the faults of all files, each with its line.
func Load(variable, dir, kind string, d Dialect, verbs ...string) (*Set, error) {
	if dir == "" {
		return nil, fmt.Errorf("%s is not set: set it to the folder with the .sql file of each %s", variable, kind)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: name a folder that Warren may read, with the .sql file of each %s", variable, err, kind)
	}
	s := &Set{kind, make(map[string]*statement)}
	var faults []error
	faultf := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf(variable+": "+format, args...))
	}
	for _, f := range files {
		name, isSQL := strings.CutSuffix(f.Name(), ".sql")
		if f.IsDir() || !isSQL {
			continue
		}
		path := filepath.Join(dir, f.Name())
		if len(name) > maxNameBytes || !namePattern.MatchString(name) {
			faultf("%s: a name is made of at most %d letters, digits, - and _: rename the file", path, maxNameBytes)
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			faultf("%w: Warren must be allowed to read it", err)
			continue
		}
		st, found := parse(string(text), d, verbs)
		for _, f := range found {
			faultf("%s:%d: %s", path, f.line, f.text)
		}
		s.statements[name] = st
	}
	if len(s.statements) == 0 && len(faults) == 0 {
		faultf("%s has no .sql file: name the folder with that of each %s", dir, kind)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return s, nil
}

// A name is part of the names of files.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

const maxNameBytes = 100

// Check has the database parse every statement, and executes none. The error joins what
// is wrong with each.
func (s *Set) Check(ctx context.Context, db *sql.DB) (found string, err error) {
	if err := db.PingContext(ctx); err != nil {
		return "", err
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(s.statements)) {
		prepared, err := db.PrepareContext(ctx, s.statements[name].sql)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s %s: %w", s.kind, name, err))
			continue
		}
		faults = append(faults, prepared.Close())
	}
	return fmt.Sprintf("the database knows what each %s names: %s", s.kind, strings.Join(slices.Sorted(maps.Keys(s.statements)), ", ")), errors.Join(faults...)
}

// Bind returns the statement of that name with its parameters, each a JSON value.
// Every error is permanent, and says what there is.
func (s *Set) Bind(name string, params map[string]json.RawMessage) (*Bound, error) {
	st := s.statements[name]
	if st == nil {
		return nil, consumer.Permanent(fmt.Errorf("there is no %s %q; there are: %s",
			s.kind, name, strings.Join(slices.Sorted(maps.Keys(s.statements)), ", ")))
	}
	values := make([]any, len(st.params))
	var faults []string
	for i, p := range st.params {
		raw, given := params[p.name]
		if !given {
			raw = p.fallback
		}
		if raw == nil {
			faults = append(faults, fmt.Sprintf("params.%s is missing, %s", p.name, p.kind.wants()))
			continue
		}
		var err error
		if values[i], err = p.value(raw); err != nil {
			faults = append(faults, fmt.Sprintf("params.%s: %v", p.name, err))
		}
	}
	for _, given := range slices.Sorted(maps.Keys(params)) {
		if !slices.ContainsFunc(st.params, func(p param) bool { return p.name == given }) {
			faults = append(faults, fmt.Sprintf("params.%s is unknown", given))
		}
	}
	if len(faults) > 0 {
		return nil, consumer.Permanent(fmt.Errorf("%s %s: %s; its parameters are: %s", s.kind, name, strings.Join(faults, "; "), st.usage()))
	}
	b := &Bound{Name: name, SQL: st.sql, Timeout: st.timeout}
	for _, i := range st.used {
		b.Args = append(b.Args, values[i])
	}
	return b, nil
}

// usage lists the parameters as they were declared.
func (st *statement) usage() string {
	if len(st.params) == 0 {
		return "none"
	}
	declared := make([]string, len(st.params))
	for i, p := range st.params {
		declared[i] = p.String()
	}
	return strings.Join(declared, ", ")
}
