//go:build !hang

package pulse

// Hang is for the test of the watchdog; see hang.go.
func Hang() {}
