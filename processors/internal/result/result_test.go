package result_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/warrenmq/warren/processors/internal/result"
)

func TestTooLongIsJSON(t *testing.T) {
	var problem struct{ Title, Detail string }
	if err := json.Unmarshal(result.TooLong().Body, &problem); err != nil || problem.Title != "result too long" || !strings.Contains(problem.Detail, "1048576 bytes") {
		t.Errorf("got %s (%v)", result.TooLong().Body, err)
	}
}

func TestContentTypeFitsIntoAProperty(t *testing.T) {
	const bytes = "application/octet-stream"
	for name, want := range map[string]string{
		"":                                     bytes,
		"text/plain; charset=utf-8":            "text/plain; charset=utf-8",
		"a/" + strings.Repeat("x", 253):        "a/" + strings.Repeat("x", 253),
		"a/" + strings.Repeat("x", 254):        bytes,
		"text/plain\r\nX: y":                   bytes,
		"text/plain\t":                         bytes,
		"text/\x00":                            bytes,
		"text/\x7f":                            bytes,
		"text/\u009b31m":                       bytes,
		"text/\xff":                            bytes,
		"text/plain; name=\"Gr\u00fc\u00dfe\"": "text/plain; name=\"Gr\u00fc\u00dfe\"",
	} {
		if got := result.ContentType(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
