// Package result bounds what processors answer with.
package result

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer"
)

// MaxBytes is the longest body of a result.
const MaxBytes = 1 << 20

// TooLong is the result of work that is done, but whose result is longer than
// MaxBytes: that is no reason to fail it, nor to do it once more. Whoever waits for the
// result can tell it by its content type, that of RFC 9457.
func TooLong() consumer.Result {
	return consumer.Result{
		ContentType: "application/problem+json",
		Body: fmt.Appendf(nil, `{"title": "result too long", "detail": "the work is done, but its result is longer than %d bytes and was left out; `+
			`have it kept elsewhere, and answer with where it is"}`, MaxBytes),
	}
}

// ContentType returns the content type of a result that calls itself so, or that of
// any bytes if no property of AMQP can hold it.
func ContentType(name string) string {
	isControl := func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }
	if name == "" || len(name) > 255 || !utf8.ValidString(name) || strings.ContainsFunc(name, isControl) {
		return "application/octet-stream"
	}
	return name
}
