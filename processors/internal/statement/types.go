package statement

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A param is a declared parameter.
type param struct {
	name     string
	kind     kind
	dialect  Dialect
	fallback json.RawMessage // nil: it must be given
	nullable bool
}

// A kind is the type of a parameter: one of types, or a list of it.
type kind struct {
	base string
	list bool
}

// A valueType is how the values of a type are written and read.
type valueType struct {
	example  string // as JSON
	postgres string
	// read returns the value as PostgreSQL reads it from text, and as SQLite keeps it.
	read func(json.RawMessage) (string, any, error)
}

var types = map[string]valueType{
	"text":      {`"paid"`, "text", readText},
	"int":       {`42`, "bigint", readInt},
	"float":     {`0.5`, "double precision", readFloat},
	"decimal":   {`"19.90"`, "numeric", readDecimal},
	"bool":      {`true`, "boolean", readBool},
	"date":      {`"2026-01-31"`, "date", readDate},
	"timestamp": {`"2026-01-31T12:00:00Z"`, "timestamptz", readTimestamp},
	"uuid":      {`"018f6d0e-3b52-7cc0-9d5e-6a1f2b3c4d5e"`, "uuid", readUUID},
	"json":      {`{"a": 1}`, "jsonb", readJSON},
}

func typeNames() string {
	return strings.Join(slices.Sorted(maps.Keys(types)), ", ") + ", and lists of them with []"
}

func (k kind) String() string {
	if k.list {
		return k.base + "[]"
	}
	return k.base
}

// wants says what a value has to be.
func (k kind) wants() string {
	example := types[k.base].example
	if k.list {
		example = "[" + example + "]"
	}
	return fmt.Sprintf("it must be of type %s, such as %s", k, example)
}

// String is the declaration.
func (p param) String() string {
	s := p.name + " " + p.kind.String()
	if p.fallback != nil {
		s += " = " + string(p.fallback)
	}
	return s
}

// placeholder is what stands for the parameter in a statement. A list is an array in
// PostgreSQL, for = ANY, and JSON in SQLite, for json_each.
func (p param) placeholder(number int) string {
	switch {
	case p.dialect == SQLite && p.kind == kind{base: "decimal"}:
		return fmt.Sprintf("CAST($%d AS NUMERIC)", number) // SQLite keeps text as text
	case p.dialect == SQLite:
		return fmt.Sprintf("$%d", number)
	case p.kind.list:
		return fmt.Sprintf("($%d::%s[])", number, types[p.kind.base].postgres)
	}
	return fmt.Sprintf("($%d::%s)", number, types[p.kind.base].postgres)
}

// value is what the database is given for a JSON value.
func (p param) value(raw json.RawMessage) (any, error) {
	raw = bytes.TrimSpace(raw)
	if string(raw) == "null" {
		if !p.nullable {
			return nil, errors.New("it is null, which only a parameter with the default null may be")
		}
		return nil, nil
	}
	read := types[p.kind.base].read
	if !p.kind.list {
		text, value, err := read(raw)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s", p.kind.wants())
		case p.dialect == SQLite:
			return value, nil
		}
		return text, nil
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil {
		return nil, fmt.Errorf("%s", p.kind.wants())
	}
	texts, values := make([]string, len(elements)), make([]any, len(elements))
	for i, e := range elements {
		var err error
		if texts[i], values[i], err = read(e); err != nil {
			return nil, fmt.Errorf("element %d: %s", i, p.kind.wants())
		}
	}
	if p.dialect == SQLite {
		list, err := json.Marshal(values)
		return string(list), err
	}
	return array(texts), nil
}

// array is an array as PostgreSQL reads it.
func array(elements []string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	quoted := make([]string, len(elements))
	for i, e := range elements {
		quoted[i] = `"` + escape.Replace(e) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}

var errValue = errors.New("not of the type")

// readString reads a JSON string. Other values are not taken for one.
func readString(raw json.RawMessage) (string, error) {
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", err
	}
	if s == nil || strings.ContainsRune(*s, 0) { // which PostgreSQL's text cannot hold
		return "", errValue
	}
	return *s, nil
}

func readText(raw json.RawMessage) (string, any, error) {
	s, err := readString(raw)
	return s, s, err
}

func readInt(raw json.RawMessage) (string, any, error) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	return strconv.FormatInt(n, 10), n, err
}

func readFloat(raw json.RawMessage) (string, any, error) {
	var f *float64
	err := json.Unmarshal(raw, &f)
	if err == nil && (f == nil || math.IsInf(*f, 0)) {
		err = errValue
	}
	if err != nil {
		return "", nil, err
	}
	return strconv.FormatFloat(*f, 'g', -1, 64), *f, nil
}

var decimalPattern = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$`)

// maxDecimalBytes is more than any amount needs, and little for a database.
const maxDecimalBytes = 500

// readDecimal takes a number, or a string: many publishers keep exact amounts so.
func readDecimal(raw json.RawMessage) (string, any, error) {
	s := string(raw)
	if strings.HasPrefix(s, `"`) {
		var err error
		if s, err = readString(raw); err != nil {
			return "", nil, err
		}
	}
	if len(s) > maxDecimalBytes || !decimalPattern.MatchString(s) {
		return "", nil, errValue
	}
	return s, s, nil
}

func readBool(raw json.RawMessage) (string, any, error) {
	b, err := strconv.ParseBool(string(raw))
	if err != nil || string(raw) != strconv.FormatBool(b) {
		return "", nil, errValue
	}
	return string(raw), b, nil
}

func readDate(raw json.RawMessage) (string, any, error) {
	s, err := readString(raw)
	if err == nil {
		_, err = time.Parse(time.DateOnly, s)
	}
	return s, s, err
}

// readTimestamp takes RFC 3339. For SQLite it is written as SQLite itself writes
// the present time, so that they can be compared.
func readTimestamp(raw json.RawMessage) (string, any, error) {
	s, err := readString(raw)
	if err != nil {
		return "", nil, err
	}
	t, err := time.Parse(time.RFC3339, s)
	return t.Format(time.RFC3339Nano), t.UTC().Format("2006-01-02 15:04:05.999"), err
}

var uuidPattern = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func readUUID(raw json.RawMessage) (string, any, error) {
	s, err := readString(raw)
	if err == nil && !uuidPattern.MatchString(s) {
		err = errValue
	}
	return s, s, err
}

func readJSON(raw json.RawMessage) (string, any, error) {
	if !json.Valid(raw) {
		return "", nil, errValue
	}
	return string(raw), string(raw), nil
}
