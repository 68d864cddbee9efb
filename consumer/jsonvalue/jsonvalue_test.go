package jsonvalue

import (
	"reflect"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]any{
		"9007199254740993": int64(9007199254740993), "-1": int64(-1), "1.5": 1.5, "1e3": 1000.0, "1e999": "1e999", "99999999999999999999": 1e20,
		`"a"`: "a", "true": true, "null": nil, ` [1, {"a": [2.5]}] `: []any{int64(1), map[string]any{"a": []any{2.5}}},
	} {
		if got, err := Parse(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v and %v, want %#v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "{", "{} {}", "1 2", "{}]", "nul"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q: got %#v, want an error", text, got)
		}
	}
	for _, text := range []string{"[]", "1", "null", `"a"`} {
		if got, err := Object(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}
