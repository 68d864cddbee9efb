package page

import (
	"os"
	"path/filepath"
	"strings"
)

// ArchivesFolder is where discarded messages are kept: in the folder that systemd has for the
// daemon's state, else in one of the system's for what does not outlast it.
func ArchivesFolder() string {
	state, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	if state == "" {
		state = os.TempDir()
	}
	return filepath.Join(state, "warren-discarded")
}
