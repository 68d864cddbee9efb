//go:build broken_acks

package broken

// Work acknowledges before the work is done.
func Work[T any](work func() T, done T) T {
	go work()
	return done
}
