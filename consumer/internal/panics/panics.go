// Package panics makes errors of panics.
package panics

import (
	"fmt"
	"runtime/debug"
	"strings"
)

// An Error is a panic, made into an error.
type Error struct {
	Value any
	Stack string
}

func (e *Error) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Recovered runs f and turns a panic of f into a [Error].
func Recovered(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &Error{v, strings.TrimSpace(string(debug.Stack()))}
		}
	}()
	return f()
}
