package command

import (
	"errors"
	"fmt"
	"strings"
)

// maxVariableBytes is the most that Linux gives to a program as one variable, its name
// included (MAX_ARG_STRLEN without the zero byte at the end).
const maxVariableBytes = 128<<10 - 1

// maxEnvBytes is the most that ENV may have. Linux gives a program a quarter of its limit
// for the stack for all of its arguments and variables, mostly 2 MiB, and each message
// needs some of that.
const maxEnvBytes = 512 << 10

// parseEnv reads ENV; see Config. It returns the variables as NAME=value, in their
// order. No value reaches the error, and nothing of a line that is not understood.
func parseEnv(text string) ([]string, error) {
	var env []string
	var faults []error
	seen := make(map[string]bool)
	fault := func(line int, format string, args ...any) {
		faults = append(faults, fmt.Errorf("ENV: line %d: %s", line, fmt.Sprintf(format, args...)))
	}
	if len(text) > maxEnvBytes {
		faults = append(faults, fmt.Errorf("ENV has %d bytes, but may have %d; have the program read a file", len(text), maxEnvBytes))
	}
	lines := envLines{rest: text}
	for lines.next() {
		name, value, ok := strings.Cut(lines.text, "=")
		value, err := lines.unquoted(strings.TrimLeft(value, " \t"))
		switch {
		case !ok || !isVariableName(name):
			fault(lines.begin, "it is not of the form NAME=value; write one variable a line, and its name of letters, digits and _")
		case err != nil:
			fault(lines.begin, "%v", err)
		case isOurs(name):
			fault(lines.begin, "%s is set by Warren itself; leave it out", name)
		case seen[name]:
			fault(lines.begin, "%s is there twice; leave one of them out", name)
		case strings.Contains(value, "\x00"):
			fault(lines.begin, "the value of %s has a zero byte in it, which no variable can have; encode it", name)
		case len(name)+1+len(value) > maxVariableBytes:
			fault(lines.begin, "the value of %s is longer than the 128 KiB that a variable can have; have the program read a file", name)
		default:
			env = append(env, name+"="+value)
		}
		seen[name] = true
	}
	return env, errors.Join(faults...)
}

// isOurs tells whether the variable is one of those that each delivery has of its own.
func isOurs(name string) bool {
	return strings.HasPrefix(name, "WARREN_") || name == "TRACEPARENT" || name == "TRACESTATE"
}

func isVariableName(name string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
	return name != "" && strings.Trim(name, letters+"0123456789") == "" && strings.Contains(letters, name[:1])
}

// envLines goes through the lines that are neither empty nor comments.
type envLines struct {
	rest  string
	text  string // of the line
	begin int    // its number
	read  int    // lines, so far
}

func (l *envLines) next() bool {
	for l.rest != "" {
		l.text = strings.TrimLeft(l.take(), " \t")
		l.begin = l.read
		if l.text != "" && l.text[0] != '#' && l.text[0] != ';' {
			return true
		}
	}
	return false
}

func (l *envLines) take() string {
	line, rest, _ := strings.Cut(l.rest, "\n")
	l.rest = rest
	l.read++
	return strings.TrimSuffix(line, "\r")
}

// unquoted returns the value that begins as given on the current line. A quoted one
// goes on to its closing quote, perhaps on a later line.
func (l *envLines) unquoted(value string) (string, error) {
	if value == "" || value[0] != '"' && value[0] != '\'' {
		return strings.TrimRight(value, " \t"), nil
	}
	quote := value[0]
	var b strings.Builder
	for i := 1; ; i++ {
		switch {
		case i == len(value) && l.rest == "":
			return "", fmt.Errorf("the quote %c is never closed", quote)
		case i == len(value): // the newline belongs to the value
			b.WriteByte('\n')
			value, i = l.take(), -1
		case value[i] == quote:
			if strings.TrimSpace(value[i+1:]) != "" {
				return "", errors.New("something follows the closing quote; write one variable a line")
			}
			return b.String(), nil
		case value[i] == '\\' && quote == '"' && i+1 < len(value) && strings.IndexByte("\"\\$`", value[i+1]) >= 0:
			i++
			b.WriteByte(value[i])
		default:
			b.WriteByte(value[i])
		}
	}
}
