package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// CheckFolder returns why [os.MkdirAll] would not make dir, or nil. It makes nothing.
func CheckFolder(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for at := dir; ; at = filepath.Dir(at) {
		switch info, err := os.Stat(at); {
		case err == nil && !info.IsDir():
			return &fs.PathError{Op: "mkdir", Path: at, Err: syscall.ENOTDIR}
		case err == nil && at != dir && syscall.Access(at, accessWrite|accessSearch) != nil:
			return fmt.Errorf("mkdir %s: %w in %s", dir, fs.ErrPermission, at)
		case err == nil:
			return nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR): // of a file there is nothing below
			return err
		}
	}
}

// The rights that access(2) is asked for.
const accessWrite, accessSearch = 2, 1
