package statement

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A fault is what is wrong in a line of a file.
type fault struct {
	line int
	text string
}

// A parser reads one file.
type parser struct {
	dialect Dialect
	text    string
	pos     int
	st      statement
	out     strings.Builder // the statement so far
	faults  []fault
	lines   []int    // of each parameter, where it is declared
	verbs   []string // that it may begin with; none: any
	begun   bool
}

func parse(text string, d Dialect, verbs []string) (*statement, []fault) {
	p := &parser{dialect: d, verbs: verbs, text: strings.TrimPrefix(text, "\ufeff")} // some editors begin with it
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return nil, []fault{{1, "it is not UTF-8 text: save it as such"}}
	}
	p.frontMatter()
	begin := p.pos
	end := p.statement()
	p.st.sql = strings.TrimSpace(p.out.String())
	if end == begin && len(p.faults) == 0 {
		p.faultf(p.pos, "there is no statement: write it below the comments that declare its parameters")
	}
	for i, declared := range p.st.params {
		if !slices.Contains(p.st.used, i) {
			p.faults = append(p.faults, fault{p.lines[i], fmt.Sprintf("parameter %s is not used: write :%[1]s where it belongs, or remove it", declared.name)})
		}
	}
	slices.SortStableFunc(p.faults, func(a, b fault) int { return a.line - b.line })
	return &p.st, p.faults
}

func (p *parser) faultf(pos int, format string, args ...any) {
	p.faults = append(p.faults, fault{1 + strings.Count(p.text[:pos], "\n"), fmt.Sprintf(format, args...)})
}

var directive = regexp.MustCompile(`^--\s*([a-z_]+):([^/].*)?$`)

// frontMatter reads the comments and empty lines before the statement.
func (p *parser) frontMatter() {
	for p.pos < len(p.text) {
		line, _, _ := strings.Cut(p.text[p.pos:], "\n")
		trimmed := strings.TrimSpace(line)
		if trimmed != "" && !strings.HasPrefix(trimmed, "--") {
			return
		}
		if m := directive.FindStringSubmatch(trimmed); m != nil {
			switch value := strings.TrimSpace(m[2]); m[1] {
			case "param":
				p.param(value)
			case "timeout":
				d, err := time.ParseDuration(value)
				if err != nil || d <= 0 || p.st.timeout != 0 {
					p.faultf(p.pos, "timeout is %q: write one, such as 90s or 5m", value)
				}
				p.st.timeout = d
			default:
				p.faultf(p.pos, "%q is unknown: there are param and timeout; a comment begins with another character, or a capital letter", m[1]+":")
			}
		}
		p.pos = min(p.pos+len(line)+1, len(p.text))
	}
}

var declaration = regexp.MustCompile(`^([a-z_][a-z0-9_]*)\s+([a-z]+)(\[\])?(?:\s*=\s*(.*))?$`)

// param reads the declaration of a parameter.
func (p *parser) param(text string) {
	m := declaration.FindStringSubmatch(text)
	if m == nil {
		p.faultf(p.pos, "param %q is not of the form name type, name type[] or name type = default, the name in lower case", text)
		return
	}
	declared := param{name: m[1], kind: kind{base: m[2], list: m[3] != ""}, dialect: p.dialect}
	if _, known := types[declared.kind.base]; !known {
		p.faultf(p.pos, "parameter %s has the unknown type %q; there are: %s", declared.name, declared.kind.base, typeNames())
		return
	}
	if p.index(declared.name) >= 0 {
		p.faultf(p.pos, "parameter %s is declared twice: remove one of them", declared.name)
		return
	}
	if strings.Contains(text, "=") {
		declared.fallback = json.RawMessage(m[4])
		declared.nullable = m[4] == "null"
		if _, err := declared.value(declared.fallback); err != nil {
			p.faultf(p.pos, "the default of parameter %s: %v; write it as JSON", declared.name, err)
		}
	}
	p.st.params = append(p.st.params, declared)
	p.lines = append(p.lines, 1+strings.Count(p.text[:p.pos], "\n"))
}

func (p *parser) index(name string) int {
	return slices.IndexFunc(p.st.params, func(q param) bool { return q.name == name })
}

// statement copies the statement, with numbers for the names of its parameters. It
// returns where the last of it ends: at its semicolon or before.
func (p *parser) statement() (end int) {
	end = p.pos
	for over := false; p.pos < len(p.text); {
		begin := p.pos
		rest := p.text[begin:]
		switch {
		case strings.ContainsRune(" \t\r\n\f\v", rune(rest[0])):
			p.copy(1)
			continue
		case strings.HasPrefix(rest, "--"):
			p.lineComment(rest)
			continue
		case strings.HasPrefix(rest, "/*"):
			p.copy(p.blockComment(rest))
			continue
		case rest[0] == ';':
			p.pos++
			over = true
			continue
		}
		if over {
			p.faultf(begin, "a second statement begins: a file has one, without BEGIN and COMMIT")
			return end
		}
		p.begin(rest)
		p.token(rest)
		end = p.pos
	}
	return end
}

// begin looks at the first word of the statement, behind any parentheses.
func (p *parser) begin(rest string) {
	if p.begun || rest[0] == '(' {
		return
	}
	p.begun = true
	word := rest[:max(wordLength(rest), 1)]
	if len(p.verbs) > 0 && !slices.Contains(p.verbs, strings.ToUpper(word)) {
		p.faultf(p.pos, "it begins with %s: it must begin with one of %s", word, strings.Join(p.verbs, ", "))
	}
}

// token copies what rest begins with. Of a quoted thing nothing is changed.
func (p *parser) token(rest string) {
	postgres := p.dialect == Postgres
	switch c := rest[0]; {
	case c == '\'':
		p.quoted(rest, 0, false)
	case c == '"', c == '`' && !postgres:
		p.quoted(rest, 0, false)
	case c == '[' && !postgres:
		p.closed(through(rest, "]", 1), rest, "]")
	case isWordStart(c):
		n := wordLength(rest)
		if postgres && n < len(rest) && rest[n] == '\'' && (rest[:n] == "e" || rest[:n] == "E") {
			p.quoted(rest, n, true)
			return
		}
		p.copy(n)
	case c >= '0' && c <= '9':
		p.copy(wordLength(rest))
	case c == '$' && postgres && dollarTag.MatchString(rest):
		tag := dollarTag.FindString(rest)
		p.closed(through(rest, tag, len(tag)), rest, tag)
	case c == ':' && len(rest) > 1 && (rest[1] == ':' || rest[1] == '='):
		p.copy(2)
	case c == ':' && len(rest) > 1 && isWordStart(rest[1]):
		p.placeholder(rest[1 : 1+wordLength(rest[1:])])
	case isForeignPlaceholder(rest, postgres):
		p.faultf(p.pos, "%q is no parameter here: declare one with -- param: and write :name", rest[:min(2, len(rest))])
		p.copy(1)
	default:
		p.copy(1)
	}
}

// placeholder writes the number that stands for a parameter. In PostgreSQL it is
// given the declared type there and then: what surrounds it does not always tell.
func (p *parser) placeholder(name string) {
	i := p.index(name)
	if i < 0 {
		p.faultf(p.pos, "parameter :%s is not declared: add a line -- param: %[1]s type; what is no parameter, as in an array's [1:%[1]s], needs a space behind its colon", name)
		p.pos += 1 + len(name)
		return
	}
	number := 1 + slices.Index(p.st.used, i)
	if number == 0 {
		p.st.used = append(p.st.used, i)
		number = len(p.st.used)
	}
	p.out.WriteString(p.st.params[i].placeholder(number))
	p.pos += 1 + len(name)
}

// quoted copies a literal or name whose quote is at rest[at], and is doubled within.
func (p *parser) quoted(rest string, at int, backslashes bool) {
	quote := rest[at]
	for i := at + 1; i < len(rest); i++ {
		switch {
		case backslashes && rest[i] == '\\':
			i++
		case rest[i] == quote && i+1 < len(rest) && rest[i+1] == quote:
			i++
		case rest[i] == quote:
			p.copy(i + 1)
			return
		}
	}
	p.closed(-1, rest, string(quote))
}

// closed copies n bytes; a negative n means that the closing mark is missing.
func (p *parser) closed(n int, rest, mark string) {
	if n < 0 {
		p.faultf(p.pos, "the closing %s is missing", mark)
		n = len(rest)
	}
	p.copy(n)
}

// lineComment copies the comment that rest begins with.
func (p *parser) lineComment(rest string) {
	line, _, _ := strings.Cut(rest, "\n")
	if m := directive.FindStringSubmatch(strings.TrimSpace(line)); m != nil && (m[1] == "param" || m[1] == "timeout") {
		p.faultf(p.pos, "%s: must stand above the statement and other comments", m[1])
	}
	p.copy(len(line))
}

// blockComment is the length of the comment that rest begins with. PostgreSQL's are
// nested.
func (p *parser) blockComment(rest string) int {
	depth := 1
	for i := 2; i < len(rest); i++ {
		switch {
		case strings.HasPrefix(rest[i:], "*/"):
			if depth--; depth == 0 {
				return i + 2
			}
			i++
		case p.dialect == Postgres && strings.HasPrefix(rest[i:], "/*"):
			depth++
			i++
		}
	}
	p.faultf(p.pos, "the closing */ is missing")
	return len(rest)
}

func (p *parser) copy(n int) {
	p.out.WriteString(p.text[p.pos : p.pos+n])
	p.pos += n
}

// through is the length of rest up to and with the first mark from an offset on,
// or -1.
func through(rest, mark string, offset int) int {
	i := strings.Index(rest[offset:], mark)
	if i < 0 {
		return -1
	}
	return offset + i + len(mark)
}

// dollarTag begins a dollar-quoted literal.
var dollarTag = regexp.MustCompile(`^\$([A-Za-z_\x80-\x{10FFFF}][A-Za-z0-9_\x80-\x{10FFFF}]*)?\$`)

// isForeignPlaceholder tells whether rest begins with a parameter that the database
// itself would take for one, and wait for.
func isForeignPlaceholder(rest string, postgres bool) bool {
	next := byte(0)
	if len(rest) > 1 {
		next = rest[1]
	}
	digit := next >= '0' && next <= '9'
	if postgres {
		return rest[0] == '$' && digit
	}
	return rest[0] == '?' || (rest[0] == '$' || rest[0] == '@' || rest[0] == ':') && (digit || isWordStart(next))
}

func isWordStart(c byte) bool {
	return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80
}

// wordLength is that of the name, keyword or number that rest begins with. A dollar
// is part of it, in both dialects.
func wordLength(rest string) int {
	for i := range len(rest) {
		if c := rest[i]; !isWordStart(c) && c != '$' && (c < '0' || c > '9') {
			return i
		}
	}
	return len(rest)
}
