package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// A Variable is one field of a struct of settings, as its tags describe it; see
// [registry.Config].
type Variable struct {
	Name    string // complete: WARREN_QUEUE_EMAILS_TIMEOUT
	Default string
	Help    string // one line

	field   reflect.Value
	tag     reflect.StructTag
	example string
}

// variables are those of the struct that settings points to.
func variables(prefix string, settings any) []Variable {
	var vars []Variable
	for f, v := range reflect.ValueOf(settings).Elem().Fields() {
		if name := f.Tag.Get("envconfig"); name != "" {
			vars = append(vars, Variable{prefix + name, f.Tag.Get("default"), f.Tag.Get("desc"), v, f.Tag, f.Tag.Get("example")})
		}
	}
	if s, ok := settings.(interface{ explain(string) string }); ok {
		for i := range vars {
			vars[i].Help = s.explain(vars[i].Help)
		}
	}
	return vars
}

// read sets the field of v.
func (v Variable) read() error {
	text, _, err := v.lookup()
	if err != nil {
		return err
	}
	if err := decode(text, v.field); err != nil {
		return v.unreadable(err)
	}
	switch {
	case v.is("required") && isEmpty(v.field):
		help, _, _ := strings.Cut(strings.TrimSuffix(v.Help, "."), ";")
		return fmt.Errorf("%s must be set: %s", v.Name, strings.ToLower(help[:1])+help[1:])
	case v.is("positive") && !isPositive(v.field):
		return fmt.Errorf("%s is %v; it must be more than zero", v.Name, v.field)
	}
	return nil
}

// decode has envconfig put a text into a field.
//
// Left to itself, envconfig fills a whole struct from the environment. That does not do
// here: it stops at the first fault, which would hide the others; it knows neither files
// nor credentials; and for a field tagged USER it takes the variable USER, too, the name
// of whoever is logged in. So it is given each field alone, in a struct of one field made
// for it, with the text as its default and a name that no variable can have.
func decode(text string, field reflect.Value) error {
	single := reflect.New(reflect.StructOf([]reflect.StructField{{
		Name: "Field",
		Type: field.Type(),
		Tag:  reflect.StructTag("default:" + strconv.Quote(text)),
	}}))
	if err := envconfig.Process("=", single.Interface()); err != nil {
		return err
	}
	field.Set(single.Elem().Field(0))
	return nil
}

// lookup returns the text of v and where it is from. It looks at, in this order, the
// variable, the file that NAME_FILE names, the systemd credential of the same name in lower
// case, and the default; one newline at the end of a file or credential is no part of it.
func (v Variable) lookup() (text, origin string, err error) {
	text, isSet := os.LookupEnv(v.Name)
	path, isFile := os.LookupEnv(v.Name + "_FILE")
	switch {
	case isSet && isFile:
		return "", "", fmt.Errorf("%s and %[1]s_FILE are both set; unset one of them", v.Name)
	case isSet:
		return text, "environment", nil
	case isFile:
		text, err = readFile(v.Name+"_FILE", path)
		return text, "file " + path, err
	}
	if credentials := os.Getenv("CREDENTIALS_DIRECTORY"); credentials != "" {
		name := strings.ToLower(v.Name)
		text, err = readFile(v.Name+", given as a systemd credential", filepath.Join(credentials, name))
		if !errors.Is(err, fs.ErrNotExist) {
			return text, "credential " + name, err
		}
	}
	if v.Default == "" {
		return "", "not set", nil
	}
	return v.Default, "default", nil
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
func (v Variable) unreadable(err error) error {
	parse, ok := errors.AsType[*envconfig.ParseError](err)
	if !ok {
		return fmt.Errorf("%s cannot be read", v.Name)
	}
	var want string
	switch v.field.Interface().(type) {
	case time.Duration:
		want = "a duration such as 500ms, 90s or 1h30m"
	case slog.Level:
		want = "debug, info, warn or error"
	case bool:
		want = "true or false"
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		want = "a whole number"
	case float32, float64:
		want = "a number"
	default:
		if _, ok := reflect.TypeAssert[envconfig.Decoder](v.field.Addr()); ok { // it describes the fault without the value
			return fmt.Errorf("%s: %w", v.Name, parse.Err)
		}
		want = "of the type " + v.field.Type().String()
	}
	if v.is("secret") {
		return fmt.Errorf("%s must be %s", v.Name, want)
	}
	return fmt.Errorf("%s is %q; it must be %s", v.Name, parse.Value, want)
}

func (v Variable) is(tag string) bool { return v.tag.Get(tag) == "true" }

func isEmpty(v reflect.Value) bool {
	return v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0
}

func isPositive(v reflect.Value) bool {
	switch {
	case v.CanFloat():
		return v.Float() > 0
	case v.CanUint():
		return v.Uint() > 0
	}
	return v.Int() > 0
}
