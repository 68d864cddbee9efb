package machinetest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
)

var groups atomic.Int64

// newGroup makes and opens a control group below that of this process, and removes those that
// others have left that were killed.
func newGroup() (*os.File, error) {
	parent, err := ownGroup()
	if err != nil {
		return nil, err
	}
	const name = "warren-machine-%d-%d" // the process, and a number
	left, err := filepath.Glob(filepath.Join(parent, "warren-machine-*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range left {
		var pid, n int
		_, err := fmt.Sscanf(filepath.Base(dir), name, &pid, &n)
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_, _ = kill(dir), remove(dir) // the next may do better
		}
	}
	dir := filepath.Join(parent, fmt.Sprintf(name, os.Getpid(), groups.Add(1)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Open(dir)
}

// ownGroup is the folder of the control group that this process is in.
func ownGroup() (string, error) {
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer func() { _ = mounts.Close() }()
	var hierarchy string
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			hierarchy = fields[1]
		}
	}
	if hierarchy == "" {
		return "", errors.New("this machine has no cgroup2 mounted, which systemd needs: mount -t cgroup2 none DIR")
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(hierarchy, strings.TrimSpace(path)), nil
		}
	}
	return "", errors.New("this process is in no control group of version 2")
}

// kill kills all that is in the group. It does not wait for the end of it.
func kill(dir string) error { return os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) }

// remove removes a control group, and first those in it. Nothing may be left in any of them.
func remove(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, syscall.Rmdir(dir))
	}
	return err
}
