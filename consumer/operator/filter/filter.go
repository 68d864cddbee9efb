// Package filter is the small language that says which messages are meant:
//
//	reason = exhausted and error ~ "timed? out" and age < 2h
//
// docs/dead-letters.md describes it.
package filter

import (
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Message has fields.
type Message interface {
	// Field returns a string, bool, int64, float64, [encoding/json.Number], time.Duration
	// or nil; false if the message has no such field. The path is that of one within a
	// header or the body.
	Field(name string, path []string) (any, bool)
}

// A Fields says which fields there are.
type Fields struct {
	Plain []string // by themselves: reason
	Paths []string // with what is in them: body.customer.name
}

// A Filter tells which messages are meant. Nil means all.
type Filter struct {
	match func(Message) bool
}

// Match tells whether m is meant.
func (f *Filter) Match(m Message) bool { return f == nil || f.match(m) }

// An Error is what is wrong with a filter, and where.
type Error struct {
	Text   string // the filter
	Column int    // 1 is its first character
	Fault  string
}

func (e *Error) Error() string {
	return fmt.Sprintf("the filter is wrong at character %d (%s): %s", e.Column, around(e.Text, e.Column), e.Fault)
}

// around shows where that is.
func around(text string, column int) string {
	rest := string([]rune(text)[column-1:])
	if rest == "" {
		return "its end"
	}
	if most := 20; utf8.RuneCountInString(rest) > most {
		rest = string([]rune(rest)[:most]) + "..."
	}
	return strconv.Quote(rest)
}

// Parse reads a filter over these fields. The empty text is one that all messages match.
func Parse(text string, fields Fields) (f *Filter, err error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	p := &parser{text: text, fields: fields}
	defer func() {
		if fault := recover(); fault != nil {
			failed, ours := fault.(*Error)
			if !ours {
				panic(fault)
			}
			f, err = nil, failed
		}
	}()
	p.next()
	match := p.or()
	if p.token.kind != end {
		p.fail(p.token, "got %s, want and, or, or the end", p.token)
	}
	return &Filter{match}, nil
}

type kind int

const (
	end kind = iota
	word
	quoted
	operator
	bracket
)

type token struct {
	kind   kind
	text   string
	offset int // in bytes
}

func (t token) String() string {
	if t.kind == end {
		return "the end"
	}
	return strconv.Quote(t.text)
}

// is tells whether the token is that word of the language.
func (t token) is(keyword string) bool { return t.kind == word && strings.EqualFold(t.text, keyword) }

// A parser panics with an *Error.
type parser struct {
	text   string
	fields Fields
	offset int
	token  token
	depth  int
}

// maxDepth bounds how deep a filter may be nested.
const maxDepth = 100

func (p *parser) fail(at token, format string, args ...any) {
	panic(&Error{Text: p.text, Column: utf8.RuneCountInString(p.text[:at.offset]) + 1, Fault: fmt.Sprintf(format, args...)})
}

// next reads the next token.
func (p *parser) next() {
	rest := strings.TrimLeftFunc(p.text[p.offset:], unicode.IsSpace)
	p.offset = len(p.text) - len(rest)
	t := token{offset: p.offset}
	switch {
	case rest == "":
	case strings.HasPrefix(rest, "!=") || strings.HasPrefix(rest, "!~") || strings.HasPrefix(rest, "<=") || strings.HasPrefix(rest, ">="):
		t.kind, t.text = operator, rest[:2]
	case strings.ContainsRune("=~<>", rune(rest[0])):
		t.kind, t.text = operator, rest[:1]
	case rest[0] == '(' || rest[0] == ')':
		t.kind, t.text = bracket, rest[:1]
	case rest[0] == '"' || rest[0] == '\'':
		t.kind = quoted
		p.token = t
		t.text, p.offset = p.quoted(t, rest)
		p.token = t
		return
	default:
		t.kind = word
		t.text = p.word(t, rest)
	}
	p.offset += len(t.text)
	p.token = t
}

// word reads a name or a value: parts of a name may be quoted, header."a b".
func (p *parser) word(t token, rest string) string {
	n := 0
	for n < len(rest) {
		r, size := utf8.DecodeRuneInString(rest[n:])
		if unicode.IsSpace(r) || strings.ContainsRune("=~<>!()'", r) {
			break
		}
		if r == '"' {
			length := strings.IndexByte(rest[n+1:], '"')
			if length < 0 {
				p.fail(token{offset: t.offset + n}, "the quote is not closed")
			}
			size = length + 2
		}
		n += size
	}
	if n == 0 {
		p.fail(t, "got %q, want a field such as reason, not, or (", rest[:1])
	}
	return rest[:n]
}

// quoted reads a quoted value, in which a backslash stands before the quote and itself, and
// stays before anything else, as regular expressions have it.
func (p *parser) quoted(t token, rest string) (value string, offset int) {
	quote := rest[0]
	var out strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == quote:
			return out.String(), t.offset + i + 1
		case c == '\\' && i+1 < len(rest) && (rest[i+1] == quote || rest[i+1] == '\\' && quote == '"'):
			i++
			out.WriteByte(rest[i])
		default:
			out.WriteByte(c)
		}
	}
	p.fail(t, "the quote is not closed")
	return "", 0
}

func (p *parser) or() func(Message) bool {
	left := p.and()
	for p.token.is("or") {
		p.next()
		a, b := left, p.and()
		left = func(m Message) bool { return a(m) || b(m) }
	}
	return left
}

func (p *parser) and() func(Message) bool {
	left := p.not()
	for p.token.is("and") {
		p.next()
		a, b := left, p.not()
		left = func(m Message) bool { return a(m) && b(m) }
	}
	return left
}

func (p *parser) not() func(Message) bool {
	if p.depth++; p.depth > maxDepth {
		p.fail(p.token, "it is nested more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	switch open := p.token; {
	case open.is("not"):
		p.next()
		a := p.not()
		return func(m Message) bool { return !a(m) }
	case open.kind == bracket && open.text == "(":
		p.next()
		inner := p.or()
		if p.token.text != ")" || p.token.kind != bracket {
			p.fail(p.token, "got %s, want ) for the ( at character %d", p.token, utf8.RuneCountInString(p.text[:open.offset])+1)
		}
		p.next()
		return inner
	case open.kind != word || open.is("and") || open.is("or"):
		p.fail(open, "got %s, want a field such as reason, not, or (", open)
	}
	return p.test()
}

// test reads a comparison, or a field alone, which is there or not.
func (p *parser) test() func(Message) bool {
	at := p.token
	name, path := p.field(at)
	get := func(m Message) (any, bool) { return m.Field(name, path) }
	p.next()
	op := p.token
	if op.kind != operator {
		return func(m Message) bool { _, there := get(m); return there }
	}
	p.next()
	value := p.token
	if value.kind != word && value.kind != quoted {
		p.fail(value, "got %s, want a value after %s", value, op.text)
	}
	want := p.value(name, op.text, value)
	p.next()
	negated := strings.HasPrefix(op.text, "!")
	return func(m Message) bool {
		got, there := get(m)
		return (there && want(got)) != negated
	}
}

// field reads the name of a field.
func (p *parser) field(t token) (name string, path []string) {
	parts := split(t.text)
	name = parts[0]
	switch {
	case slices.Contains(p.fields.Plain, name) && len(parts) == 1, slices.Contains(p.fields.Paths, name):
	case slices.Contains(p.fields.Plain, name):
		p.fail(t, "%s has nothing in it; leave out .%s", name, strings.Join(parts[1:], "."))
	default:
		p.fail(t, "there is no field %s; there are %s, and what is in %s", name,
			strings.Join(slices.Concat(p.fields.Plain, p.fields.Paths), ", "), strings.Join(p.fields.Paths, " and "))
	}
	if slices.Contains(parts, "") {
		p.fail(t, "%s has an empty part; quote a name that has dots in it: body.\"a.b\"", t.text)
	}
	return name, parts[1:]
}

// split splits at the dots that are not within quotes.
func split(text string) []string {
	var parts []string
	var part strings.Builder
	in := false
	for _, r := range text {
		switch {
		case r == '"':
			in = !in
		case r == '.' && !in:
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteRune(r)
		}
	}
	return append(parts, part.String())
}

// value returns what tells whether a value is as the operator and the value after it say.
// A negated operator is as the one without its mark.
func (p *parser) value(field, op string, t token) func(any) bool {
	op = strings.TrimPrefix(op, "!")
	if op == "~" {
		re, err := regexp.Compile(t.text)
		if err != nil {
			p.fail(t, "%s is no regular expression: %v; write \\ before a character that is meant as it is", t, err)
		}
		return func(got any) bool { return re.MatchString(Text(got)) }
	}
	asDuration, durationErr := ParseDuration(t.text)
	asNumber := number(t.text)
	switch {
	case (field == "age" || field == "in") && durationErr != nil:
		p.fail(t, "%s is no time; write 30s, 15m, 2h or 7d", t)
	case op != "=" && asNumber == nil && durationErr != nil:
		p.fail(t, "%s is neither a number nor a time such as 2h; %s compares those", t, op)
	}
	return func(got any) bool {
		switch got := got.(type) {
		case time.Duration:
			return durationErr == nil && compared(op, compare(got, asDuration))
		case nil:
			return op == "=" && t.kind == word && t.text == "null"
		case string:
			if op == "=" {
				return got == t.text
			}
		}
		a := number(Text(got))
		if a == nil || asNumber == nil {
			return op == "=" && Text(got) == t.text
		}
		return compared(op, a.Cmp(asNumber))
	}
}

func compare(a, b time.Duration) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func compared(op string, c int) bool {
	switch op {
	case "=":
		return c == 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

// number is text as a number, exact whatever its size; nil if it is none.
func number(text string) *big.Rat {
	const most = 400 // digits, and as an exponent: more is nothing that anybody compares
	if text == "" || len(text) > most || !strings.ContainsRune("+-.0123456789", rune(text[0])) {
		return nil
	}
	if strings.ContainsAny(text, "/_xXpP") {
		return nil
	}
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		exponent, err := strconv.Atoi(text[i+1:])
		if err != nil || exponent > most || exponent < -most {
			return nil
		}
	}
	n, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil
	}
	return n
}

// Text is a value as ~ sees it.
func Text(v any) string {
	if f, ok := v.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	if v == nil {
		return "null"
	}
	return fmt.Sprint(v)
}

// ParseDuration is as time.ParseDuration, with d for days.
func ParseDuration(text string) (time.Duration, error) {
	days, rest, found := strings.Cut(text, "d")
	if !found {
		return time.ParseDuration(text)
	}
	n, err := strconv.Atoi(days)
	if err != nil || n > 100_000 || n < 0 {
		return 0, fmt.Errorf("%q is no time", text)
	}
	total := time.Duration(n) * 24 * time.Hour
	if rest == "" {
		return total, nil
	}
	more, err := time.ParseDuration(rest)
	return total + more, err
}
