package disk_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/warrenmq/warren/processors/internal/disk"
)

// What MkdirAll makes, CheckFolder finds nothing wrong with, and the other way round.
func TestCheckFolderAgreesWithMkdirAll(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"folder", "locked", "locked/within"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(root, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "locked"), 0o500); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "folder", "folder/a", "a/b/c", "file", "file/a", "file/a/b", "locked", "locked/a", "locked/within/a", strings.Repeat("x", 300)} {
		dir := filepath.Join(root, name)
		checked := disk.CheckFolder(dir)
		_, before := os.Stat(dir)
		made := os.MkdirAll(dir, 0o700)
		if (checked == nil) != (made == nil) {
			t.Errorf("%s: CheckFolder returned %v, MkdirAll %v", name, checked, made)
		}
		if checked != nil && !strings.Contains(checked.Error(), root) {
			t.Errorf("%s: %v does not name the folder", name, checked)
		}
		if made == nil && os.IsNotExist(before) {
			_ = syscall.Rmdir(dir)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "a/b/c")); err == nil {
		t.Error("a/b/c is still there")
	}
}
