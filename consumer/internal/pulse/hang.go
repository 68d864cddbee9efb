//go:build hang

package pulse

import (
	"os"
	"time"
)

// Hang blocks the loop that calls it for as long as the file exists that HANG_FILE names. It is
// built only into the daemon that the watchdog is tested with.
func Hang() {
	for {
		if _, err := os.Stat(os.Getenv("HANG_FILE")); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}
