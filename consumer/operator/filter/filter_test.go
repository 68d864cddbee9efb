package filter

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

var fields = Fields{Plain: []string{"reason", "error", "age", "attempts"}, Paths: []string{"header", "body"}}

// message is a message whose fields have these names, with their paths.
type message map[string]any

func (m message) Field(name string, path []string) (any, bool) {
	v, there := m[strings.Join(append([]string{name}, path...), "/")]
	return v, there
}

func TestMatch(t *testing.T) {
	m := message{
		"reason": "exhausted", "error": "451 try again later", "age": 90 * time.Minute, "attempts": int64(20),
		"header/tenant": "blue", "header/a.b": "dotted", "header/half": 0.5, "header/yes": true, "header/none": nil,
		"body/id": json.Number("12345678901234567890"), "body/amount": json.Number("100.10"), "body/zip": "01234", "body/items/0/sku": "A-1",
		"body/huge": json.Number("1e999999999"),
	}
	for text, want := range map[string]bool{
		"":                                                true,
		"reason = exhausted":                              true,
		"reason=exhausted":                                true,
		`reason = "exhausted"`:                            true,
		"reason != exhausted":                             false,
		"reason = permanent or attempts = 20":             true,
		"reason = permanent and attempts = 20":            false,
		"not reason = permanent and attempts = 20":        true,
		"not (reason = exhausted and attempts = 20)":      false,
		"reason = x or reason = exhausted and age > 2h":   false, // and binds closer
		"(reason = exhausted or reason = x) and age > 1h": true,
		"NOT reason = x AND reason = exhausted":           true,
		"error ~ again":                                   true,
		"error ~ '^4\\d\\d '":                             true,
		`error ~ "^4\d\d "`:                               true,
		"error ~ Again":                                   false,
		"error ~ (?i)Again":                               false, // its brackets need quotes; see below
		"error ~ '(?i)Again'":                             true,
		"error !~ again":                                  false,
		"age > 1h":                                        true,
		"age >= 90m":                                      true,
		"age < 1d":                                        true,
		"age > 1d12h":                                     false,
		"attempts >= 20":                                  true,
		"attempts < 20.5":                                 true,
		"header.tenant = blue":                            true,
		`header."a.b" = dotted`:                           true,
		"header.tenant":                                   true,
		"header.color":                                    false,
		"not header.color":                                true,
		"header.color = red":                              false,
		"header.color != red":                             true,
		"header.half = 0.5":                               true,
		"header.yes = true":                               true,
		"header.none = null":                              true,
		"header.none":                                     true,
		"body.id = 12345678901234567890":                  true,
		"body.id = 12345678901234567891":                  false,
		"body.id > 12345678901234567889":                  true,
		"body.amount = 100.1":                             true,
		"body.amount > 100":                               true,
		"body.zip = 01234":                                true,
		"body.zip = 1234":                                 false,
		"body.zip > 1000":                                 true,
		"body.items.0.sku = A-1":                          true,
		"body.huge > 5":                                   false, // of no size that anything could be done with
		"body.huge = 1e999999999":                         true,
		"reason > 5":                                      false,
	} {
		f, err := Parse(text, fields)
		if text == "error ~ (?i)Again" {
			if err == nil {
				t.Errorf("%s: got no error", text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: got error %v", text, err)
			continue
		}
		if got := f.Match(m); got != want {
			t.Errorf("%s: got %t, want %t", text, got, want)
		}
	}
}

func TestFaults(t *testing.T) {
	for text, want := range map[string]struct {
		column int
		fault  string
	}{
		"resaon = x":                 {1, "there is no field resaon; there are reason, error, age, attempts, header, body, and what is in header and body"},
		"reason.x = y":               {1, "reason has nothing in it; leave out .x"},
		"reason =":                   {9, "got the end, want a value after ="},
		"reason = x y":               {12, `got "y", want and, or, or the end`},
		"reason = x and":             {15, "got the end, want a field such as reason, not, or ("},
		"(reason = x":                {12, "got the end, want ) for the ( at character 1"},
		"reason = x)":                {11, `got ")", want and, or, or the end`},
		"reason ~ '('":               {10, "is no regular expression"},
		"reason = 'x":                {10, "the quote is not closed"},
		"äöü ~ x and reason = 'x":    {1, "there is no field äöü"},
		"reason = ä and reason = 'x": {25, "the quote is not closed"},
		"age > soon":                 {7, `"soon" is no time; write 30s, 15m, 2h or 7d`},
		"attempts > many":            {12, `"many" is neither a number nor a time such as 2h; > compares those`},
		"= x":                        {1, `got "=", want a field`},
		"and":                        {1, `got "and", want a field`},
		`header."x = y`:              {8, "the quote is not closed"},
		"body..x = y":                {1, "has an empty part"},
		"!reason":                    {1, `got "!", want a field`},
		strings.Repeat("(", 1000) + "reason" + strings.Repeat(")", 1000): {101, "it is nested more than 100 deep"},
	} {
		_, err := Parse(text, fields)
		fault, ok := errors.AsType[*Error](err)
		if !ok || fault.Column != want.column || !strings.Contains(fault.Fault, want.fault) {
			t.Errorf("%.40s: got %v, want character %d and %q", text, err, want.column, want.fault)
		}
	}
	_, err := Parse("reason = x andd age > 1h", fields)
	if got, want := err.Error(), `the filter is wrong at character 12 ("andd age > 1h"): got "andd", want and, or, or the end`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Nothing that is typed has the parser panic, and what it takes has an answer.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{`reason = x and not (age > 1h or body."a b".0 ~ "x")`, "((", `'\`, "é!~", "body.x>1e5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := Parse(text, fields)
		if err == nil {
			parsed.Match(message{"reason": text, "body/x": json.Number("1")})
		} else if err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}
