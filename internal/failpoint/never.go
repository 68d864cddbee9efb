//go:build !failpoints

package failpoint

import "io"

// Here is one of the points.
func Here(Point) {}

// Publishing is that point of the messages with a purpose.
func Publishing(Point, string) {}

// Error is one of the points, where a call can fail.
func Error(Point) error { return nil }

// Connected gives a connection to those that are cut when something fails elsewhere.
func Connected(io.Closer) {}
