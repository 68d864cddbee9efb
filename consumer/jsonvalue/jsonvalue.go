// Package jsonvalue reads values that headers of AMQP can have from JSON.
package jsonvalue

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// Parse reads a JSON value. Whole numbers are int64 and others float64; what is larger
// than either is text.
func Parse(text string) (any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the value")
	}
	return withNumbers(v), nil
}

// Object reads a JSON object, as Parse does.
func Object(text string) (map[string]any, error) {
	v, err := Parse(text)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("it is not an object")
	}
	return object, nil
}

// withNumbers returns v with numbers in place of what JSON has for them.
func withNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case map[string]any:
		for name, e := range v {
			v[name] = withNumbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = withNumbers(e)
		}
	}
	return v
}
