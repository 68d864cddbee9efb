//go:build hang

package consumer

import (
	"os"
	"time"
)

// hang blocks a queue's loop for as long as the file exists that HANG_FILE names. It is
// built only into the daemon that the watchdog is tested with.
func hang() {
	for {
		if _, err := os.Stat(os.Getenv("HANG_FILE")); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}
