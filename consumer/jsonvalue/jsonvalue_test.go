package jsonvalue

import (
	"encoding/json"
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

func TestMarshal(t *testing.T) {
	for text, want := range map[string]string{
		"plain äöü 漢字 <&> 👍":                    `"plain äöü 漢字 <&> 👍"`,
		"\x1b[31m\x7f\u009b31m":                 `"\u001b[31m\u007f\u009b31m"`,
		"\u202egnp.exe zero\u200bwidth \\u202e": `"\u202egnp.exe zero\u200bwidth \\u202e"`,
		"beyond \U000e0041 \u2028\n":            `"beyond \udb40\udc41 \u2028\n"`,
	} {
		got, err := Marshal(map[string]string{text: text})
		if err != nil || string(got) != "{"+want+":"+want+"}" {
			t.Errorf("%q: got %s and %v, want %s", text, got, err, want)
		}
		var back map[string]string
		if err := json.Unmarshal(got, &back); err != nil || back[text] != text {
			t.Errorf("%q: came back as %q, %v", text, back, err)
		}
	}
	if got, err := Marshal(func() {}); err == nil {
		t.Errorf("got %s of what JSON cannot say", got)
	}
}
