package settings

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Print writes what the environment configures, whether or not the daemon would start
// with it. It returns an error that names every fault if it would not.
func Print(p Program, w io.Writer) error {
	r := newReader()
	_, err := load(r, p, io.Discard)
	return errors.Join(r.print(w), err)
}

// print writes a line for each variable that was read, followed by what it means.
func (r *reader) print(w io.Writer) error {
	var b strings.Builder
	owner := ""
	for _, v := range r.vars {
		if o := r.owners[v.Name]; o != owner {
			owner = o
			fmt.Fprintf(&b, "# %s\n", owner)
		}
		fmt.Fprintf(&b, "%s\n    %s\n", v, v.Help)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String is the line of v: its name, its value unless that is a secret, and where it is
// from.
func (v Variable) String() string {
	text, origin, err := v.lookup()
	byDefault := v.Default
	switch {
	case err != nil:
		return v.Name + "=  [cannot be read]"
	case text == byDefault:
	case v.is("secret"):
		text = "******"
	default:
		text = masked(text)
	}
	if byDefault != "" && origin != "default" {
		origin += "; the default is " + byDefault
	}
	return fmt.Sprintf("%s=%s  [%s]", v.Name, text, origin)
}

// userinfo is what a URL in a text has before its host. What was meant as a password may
// have unescaped characters in it.
var userinfo = regexp.MustCompile(`://\S*@`)

// masked is the text on one line, with no password of a URL in it.
func masked(text string) string {
	text = userinfo.ReplaceAllString(text, "://******@")
	if strings.ContainsFunc(text, unicode.IsControl) {
		return strconv.Quote(text)
	}
	return text
}
