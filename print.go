package main

import (
	_ "embed" // of the example file
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

//go:embed config.example.env
var exampleEnv string

type configCommand struct {
	Example bool `help:"Print an environment file with every variable there is instead."`
}

// Run prints what the environment configures, whether or not the daemon would start with
// it. It returns an error that names every fault if it would not.
func (c configCommand) Run(std streams) error {
	if c.Example {
		_, err := io.WriteString(std.out, exampleEnv)
		return err
	}
	env := newEnvironment()
	cfg, err := readConfig(env, io.Discard)
	if err == nil {
		err = cfg.Close()
	}
	return errors.Join(env.print(std.out), err)
}

// print writes a line for each variable that was read, followed by what it means.
func (e *environment) print(w io.Writer) error {
	var b strings.Builder
	owner := ""
	for _, v := range e.vars {
		if o := e.owners[v.name]; o != owner {
			owner = o
			fmt.Fprintf(&b, "# %s\n", owner)
		}
		fmt.Fprintf(&b, "%s\n    %s\n", v, v.tag.Get("desc"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String is the line of v: its name, its value unless that is a secret, and where it is
// from.
func (v variable) String() string {
	text, origin, err := v.lookup()
	byDefault := v.tag.Get("default")
	switch {
	case err != nil:
		return v.name + "=  [cannot be read]"
	case text == byDefault:
	case v.is("secret"):
		text = "******"
	default:
		text = masked(text)
	}
	if byDefault != "" && origin != "default" {
		origin += "; the default is " + byDefault
	}
	return fmt.Sprintf("%s=%s  [%s]", v.name, text, origin)
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
