// Package strictjson reads JSON as the publishers of messages meant it, or not at
// all: where encoding/json would pass over a slip, or repair a text and so change it,
// there is an error that says what to change.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer"
)

// Body reads the body of d into the struct that v points to. fields names those that
// there are, for the error, which is marked as undecodable.
func Body(d consumer.Delivery, v any, fields string) error {
	err := checkEncoding(d.ContentEncoding)
	if err == nil {
		err = Decode(d.Body, v)
	}
	if unknown, ok := errors.AsType[unknownMember](err); ok {
		err = fmt.Errorf("%w; the fields are %s", unknown, fields)
	}
	if err != nil {
		return consumer.Undecodable(fmt.Errorf("decode body: %w", err))
	}
	return nil
}

func checkEncoding(encoding string) error {
	switch encoding {
	case "", "identity", "utf-8", "UTF-8": // not what the property is for, but Python's kombu sets it so
		return nil
	}
	return fmt.Errorf("it has the content encoding %q: publish the JSON itself", encoding)
}

// Decode reads the one JSON value that data is into what v points to. It refuses text
// that is not UTF-8, and members of objects that v has no field for. It does not copy
// data: a large text in it is in memory once more at most.
func Decode(data []byte, v any) error {
	if err := checkText(data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	return checkMembers(data, reflect.TypeOf(v), "")
}

// checkText says what is wrong with data in words that help more than those for the
// first byte that JSON cannot have.
func checkText(data []byte) error {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return errors.New("it is empty: publish a JSON object")
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		return errors.New("it is compressed with gzip: publish the JSON itself")
	case bytes.HasPrefix(data, []byte{0xef, 0xbb, 0xbf}):
		return errors.New("it begins with a byte order mark: publish the JSON without it")
	case bytes.HasPrefix(data, []byte{0xfe, 0xff}), bytes.HasPrefix(data, []byte{0xff, 0xfe}):
		return errors.New("it is UTF-16: publish the JSON as UTF-8")
	}
	if at := invalidUTF8(data); at >= 0 {
		return fmt.Errorf("it is not UTF-8, as JSON has to be: byte %d is 0x%02x; encode the text as UTF-8 before it is published", at, data[at])
	}
	if at := loneSurrogate(data); at >= 0 {
		return fmt.Errorf("%s at byte %d is half of a character: publish both halves, or the character itself", data[at:at+6], at)
	}
	return nil
}

// invalidUTF8 is where data ceases to be UTF-8, or -1.
func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for i := 0; ; {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
}

// loneSurrogate is where data escapes one half of a character beyond U+FFFF without
// the other, or -1. encoding/json makes U+FFFD of it.
func loneSurrogate(data []byte) int {
	for i := 0; ; {
		next := bytes.IndexByte(data[i:], '\\')
		if next < 0 {
			return -1
		}
		i += next
		first := escapedUnit(data[i:])
		switch {
		case first < 0: // another escape
			i += 2
		case !utf16.IsSurrogate(first):
			i += 6
		case utf16.DecodeRune(first, escapedUnit(data[i+6:])) == utf8.RuneError:
			return i
		default:
			i += 12
		}
		if i >= len(data) {
			return -1
		}
	}
}

// escapedUnit is what data, if it begins with \u0000 or the like, stands for, or -1.
func escapedUnit(data []byte) rune {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return -1
	}
	unit, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(unit)
}

// An unknownMember is the path of one that there is no field for.
type unknownMember string

func (m unknownMember) Error() string { return fmt.Sprintf("unknown field %q", string(m)) }

// A view is a value as it stands in the JSON that is read: a part of that, not a copy.
type view []byte

// UnmarshalJSON has v be data, which encoding/json allows no longer than the caller
// of Unmarshal leaves it unchanged; which Decode does.
func (v *view) UnmarshalJSON(data []byte) error {
	*v = data
	return nil
}

// checkMembers refuses members of the objects in data that t has no field for.
// json.Decoder can do so as well, but first copies all of data into a buffer that
// may grow to twice its size. A type that reads itself is not looked into.
func checkMembers(data []byte, t reflect.Type, path string) error {
	for t.Kind() == reflect.Pointer {
		if t.Implements(unmarshaler) {
			return nil
		}
		t = t.Elem()
	}
	switch {
	case reflect.PointerTo(t).Implements(unmarshaler):
	case t.Kind() == reflect.Struct:
		var members map[string]view
		if err := json.Unmarshal(data, &members); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(members)) {
			field, ok := fieldOf(t, name)
			if !ok {
				return unknownMember(path + name)
			}
			if err := checkMembers(members[name], field.Type, path+name+"."); err != nil {
				return err
			}
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		var elements []view
		if err := json.Unmarshal(data, &elements); err != nil {
			return err
		}
		for i, e := range elements {
			if err := checkMembers(e, t.Elem(), fmt.Sprintf("%s[%d].", strings.TrimSuffix(path, "."), i)); err != nil {
				return err
			}
		}
	}
	return nil
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// fieldOf is the field of t that encoding/json reads the member of that name into.
func fieldOf(t reflect.Type, name string) (reflect.StructField, bool) {
	for field := range t.Fields() {
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if tag == "" {
			tag = field.Name
		}
		if field.IsExported() && tag != "-" && strings.EqualFold(tag, name) {
			return field, true
		}
	}
	return reflect.StructField{}, false
}

// Values are the members of an object that may be anything. A number is an int64
// where it is whole, and a float64 otherwise: as float64, an order 12345678 would be
// printed as 1.2345678e+07.
type Values map[string]any

// UnmarshalJSON reads an object.
func (v *Values) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode((*map[string]any)(v)); err != nil {
		return err
	}
	for name, value := range *v {
		(*v)[name] = withNumbers(value)
	}
	return nil
}

// withNumbers replaces the numbers of v, in place.
func withNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String() // a number beyond float64, as it was written
	case []any:
		for i := range v {
			v[i] = withNumbers(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = withNumbers(v[key])
		}
	}
	return v
}
