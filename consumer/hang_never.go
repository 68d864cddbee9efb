//go:build !hang

package consumer

// hang is for the test of the watchdog; see hang.go.
func hang() {}
