package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// hide keeps other processes of this user from looking at this one: a handler that runs
// as the daemon does would find every password in /proc/PID/environ, and could read and
// change its memory as a debugger does. Root still can, and the program that a process
// turns into is not hidden. There is no core dump, either.
func hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide the environment from other processes (prctl PR_SET_DUMPABLE): %w", err)
	}
	return nil
}
