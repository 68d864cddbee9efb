// Package disk holds what processors do with files beyond the standard library.
package disk

import (
	"errors"
	"os"
	"syscall"

	"github.com/warrenmq/warren/consumer"
)

// SyncDir makes a rename in dir last beyond a power failure.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// ErrLocked is the error of a file that another process has locked.
var ErrLocked error = syscall.EWOULDBLOCK

// Lock locks f until it is closed, or the process has ended. It does not block.
func Lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// Verdict marks err as [consumer.Unavailable] if the disk is full, or the quota used
// up: no message is at fault for it.
func Verdict(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return consumer.Unavailable(err)
	}
	return err
}
