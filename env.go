package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/kelseyhightower/envconfig"
)

// envPrefix begins the name of every variable of Warren.
const envPrefix = "WARREN_"

// An environment reads variables into structs. It keeps every fault that it comes
// upon, so that an operator sees them all at once, and every name that it was
// asked for, so that what is left over can be called unknown.
type environment struct {
	owners map[string]string // of each known name: "queue emails", ...
	vars   []variable        // all that were read, in that order
	faults []string
}

func newEnvironment() *environment { return &environment{owners: make(map[string]string)} }

// A variable is one field of a struct of settings, as its tags describe it:
//
//	envconfig  its name, without the prefix
//	default    what it is if not set
//	desc       one line of explanation, for config.example.env
//	secret     true if no message may show its value
//	required   true if it must be set, and not to the empty string
//	positive   true if zero and less are faults
type variable struct {
	name  string // complete: WARREN_QUEUE_EMAILS_TIMEOUT
	field reflect.Value
	tag   reflect.StructTag
}

// variables are those of the struct that settings points to.
func variables(prefix string, settings any) []variable {
	var vars []variable
	for f, v := range reflect.ValueOf(settings).Elem().Fields() {
		if name := f.Tag.Get("envconfig"); name != "" {
			vars = append(vars, variable{prefix + name, v, f.Tag})
		}
	}
	return vars
}

// know makes the names of the variables of settings known as the owner's. It
// reports false, and a fault, if somebody else has one of them.
func (e *environment) know(owner, prefix string, settings any) bool {
	for _, v := range variables(prefix, settings) {
		for _, name := range []string{v.name, v.name + "_FILE"} {
			if other := e.owners[name]; other != "" && other != owner {
				e.faultf("%s and %s would share the variable %s; rename one of them", other, owner, name)
				return false
			}
			e.owners[name] = owner
		}
	}
	return true
}

// read fills the struct that settings points to. A field whose variable is faulty
// is left zero, and read reports false.
func (e *environment) read(prefix string, settings any) bool {
	ok := true
	vars := variables(prefix, settings)
	e.vars = append(e.vars, vars...)
	for _, v := range vars {
		if err := v.read(); err != nil {
			v.field.SetZero()
			e.fault(err)
			ok = false
		}
	}
	return ok
}

// read sets the field of v.
func (v variable) read() error {
	text, _, err := v.lookup()
	if err != nil {
		return err
	}
	// envconfig stops at its first error and takes a variable without the prefix as
	// well (a field tagged USER would get the name of whoever is logged in). It does
	// neither with a struct of one field that is called as the variable is.
	single := reflect.New(reflect.StructOf([]reflect.StructField{{
		Name: strings.TrimPrefix(v.name, envPrefix),
		Type: v.field.Type(),
		Tag:  reflect.StructTag("default:" + strconv.Quote(text)),
	}}))
	if err := envconfig.Process(strings.TrimSuffix(envPrefix, "_"), single.Interface()); err != nil {
		return v.unreadable(err)
	}
	v.field.Set(single.Elem().Field(0))

	switch {
	case v.is("required") && isEmpty(v.field):
		desc, _, _ := strings.Cut(strings.TrimSuffix(v.tag.Get("desc"), "."), ";")
		return fmt.Errorf("%s must be set: %s", v.name, strings.ToLower(desc[:1])+desc[1:])
	case v.is("positive") && !isPositive(v.field):
		return fmt.Errorf("%s is %v; it must be more than zero", v.name, v.field)
	}
	return nil
}

// lookup returns the text of v and where it is from. It looks at, in this order, the
// variable, the file that NAME_FILE names, the systemd credential of the same name in lower
// case, and the default; one newline at the end of a file or credential is no part of it.
func (v variable) lookup() (text, origin string, err error) {
	text, isSet := os.LookupEnv(v.name)
	path, isFile := os.LookupEnv(v.name + "_FILE")
	switch {
	case isSet && isFile:
		return "", "", fmt.Errorf("%s and %[1]s_FILE are both set; unset one of them", v.name)
	case isSet:
		return text, "environment", nil
	case isFile:
		text, err = readFile(v.name+"_FILE", path)
		return text, "file " + path, err
	}
	if credentials := os.Getenv("CREDENTIALS_DIRECTORY"); credentials != "" {
		name := strings.ToLower(v.name)
		text, err = readFile(v.name+", given as a systemd credential", filepath.Join(credentials, name))
		if !errors.Is(err, fs.ErrNotExist) {
			return text, "credential " + name, err
		}
	}
	if text = v.tag.Get("default"); text == "" {
		return "", "not set", nil
	}
	return text, "default", nil
}

func readFile(what, path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w; the file must be there and readable for the daemon", what, err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if text == "" {
		return "", fmt.Errorf("%s: the file %s is empty", what, path)
	}
	return text, nil
}

// unreadable says what is wrong with the value of v. It shows the value unless v is
// a secret, which envconfig's own error would not spare.
func (v variable) unreadable(err error) error {
	parse, ok := errors.AsType[*envconfig.ParseError](err)
	if !ok {
		return fmt.Errorf("%s cannot be read", v.name)
	}
	var want string
	switch v.field.Interface().(type) {
	case time.Duration:
		want = "a duration such as 500ms, 90s or 1h30m"
	case slog.Level:
		want = "debug, info, warn or error"
	case bool:
		want = "true or false"
	case int:
		want = "a whole number"
	case float64:
		want = "a number"
	default: // of a type that decodes itself, and describes the fault without the value
		return fmt.Errorf("%s: %w", v.name, parse.Err)
	}
	if v.is("secret") {
		return fmt.Errorf("%s must be %s", v.name, want)
	}
	return fmt.Errorf("%s is %q; it must be %s", v.name, parse.Value, want)
}

func (v variable) is(tag string) bool { return v.tag.Get(tag) == "true" }

func isEmpty(v reflect.Value) bool {
	return v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0
}

func isPositive(v reflect.Value) bool {
	if v.CanFloat() {
		return v.Float() > 0
	}
	return v.Int() > 0
}

// refuseUnknown reports each variable with Warren's prefix that nobody asked for.
// Those whose names begin as one of except does are left alone.
func (e *environment) refuseUnknown(except ...string) {
	for _, entry := range slices.Sorted(slices.Values(os.Environ())) {
		name, _, _ := strings.Cut(entry, "=")
		excepted := slices.ContainsFunc(except, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		if strings.HasPrefix(name, envPrefix) && e.owners[name] == "" && !excepted {
			e.faultf("%s is unknown; the nearest known name is %s", name, e.nearest(name))
		}
	}
}

// nearest is the known name that takes the fewest edits to get to.
func (e *environment) nearest(name string) string {
	return slices.MinFunc(slices.Sorted(maps.Keys(e.owners)), func(a, b string) int {
		return cmp.Compare(levenshtein.ComputeDistance(name, a), levenshtein.ComputeDistance(name, b))
	})
}

func (e *environment) faultf(format string, args ...any) {
	e.fault(fmt.Errorf(format, args...))
}

// fault keeps err, each of several joined ones as a fault of its own.
func (e *environment) fault(err error) {
	if err != nil {
		e.faults = append(e.faults, strings.Split(err.Error(), "\n")...)
	}
}

// err returns all faults, a line each, or nil.
func (e *environment) err() error {
	switch len(e.faults) {
	case 0:
		return nil
	case 1:
		return errors.New("configuration: " + e.faults[0])
	}
	return fmt.Errorf("the configuration has %d faults:\n  %s", len(e.faults), strings.Join(e.faults, "\n  "))
}
