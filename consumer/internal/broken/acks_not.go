//go:build !broken_acks

package broken

// Work does the work of a delivery.
func Work[T any](work func() T, _ T) T { return work() }
