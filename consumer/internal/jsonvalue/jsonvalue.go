// Package jsonvalue reads headers of AMQP from JSON.
package jsonvalue

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// Headers reads a JSON object. Whole numbers are int64, others float64, and what is
// larger than any number of AMQP is text.
func Headers(text string) (map[string]any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var headers map[string]any
	if err := d.Decode(&headers); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the object")
	}
	numbers(headers)
	return headers, nil
}

// numbers returns v with numbers in place of what JSON has for them.
func numbers(v any) any {
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
			v[name] = numbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = numbers(e)
		}
	}
	return v
}
