package webhook

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// What nobody waits for is no reason to do the work once more.
func TestResultThatNobodyWaitsFor(t *testing.T) {
	for name, test := range map[string]struct {
		body io.Reader
		want string
	}{
		"good":   {strings.NewReader("ok"), "ok"},
		"broken": {io.MultiReader(strings.NewReader("ok"), iotest.ErrReader(io.ErrUnexpectedEOF)), ""},
	} {
		a := &answer{&http.Response{Body: io.NopCloser(test.body), Header: http.Header{}}, func(error) {}}
		if got, tooLong, err := a.result(false); tooLong || err != nil || string(got.Body) != test.want {
			t.Errorf("%s: got %.20q and %v, want %q and nil", name, got.Body, err, test.want)
		}
	}
}

func TestRedactedAtACut(t *testing.T) {
	r := redactor{[]string{"xyzabc", "abcdef"}, strings.NewReplacer("xyzabc", "*", "abcdef", "*")}
	for text, want := range map[string]string{
		"":             "",
		"all abcdef":   "all *",
		"all abcde":    "all ",
		"all x":        "all ",
		"all xyzabc":   "all ", // abc may begin the other one, and xyz is then what is left
		"xyzabc, abcd": "*, ",
	} {
		if got := r.redacted(text, true); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := r.redacted("all of it, a", false); got != "all of it, a" {
		t.Errorf("what is whole has become %q", got)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                                 0,
		"0":                                0,
		"120":                              2 * time.Minute,
		" 7 ":                              7 * time.Second,
		"-5":                               0,
		"1.5":                              0,
		"soon":                             0,
		"86401":                            24 * time.Hour,
		"9223372036854775807":              24 * time.Hour,
		"99999999999999999999999":          0,
		"Sat, 21 Nov 2026 08:01:30 GMT":    90 * time.Second,
		"Saturday, 21-Nov-26 08:01:30 GMT": 90 * time.Second,
		"Sat, 21 Nov 2026 07:00:00 GMT":    0,
		"Sat, 21 Nov 2099 07:00:00 GMT":    24 * time.Hour,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}
