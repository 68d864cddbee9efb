// Package nodetest installs what tests need from npm.
package nodetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Install returns a copy of the folder, in the user's cache, that has the packages of its
// package-lock.json beside it. The first time for each content of the folder it installs
// them with npm.
func Install(t testing.TB, folder string) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("there is no %s; apt-get install nodejs npm provides it: %v", program, err)
		}
	}
	hash := sha256.New()
	files, err := os.ReadDir(folder) // in order
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(hash, "%s %d\n%s", f.Name(), len(content), content)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "warren")
	dir := filepath.Join(cache, fmt.Sprintf("%s-%.6x", filepath.Base(folder), hash.Sum(nil)))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	// Into a folder of its own first: neither an interrupted installation must count, nor
	// one that another test process is at.
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	fresh, err := os.MkdirTemp(cache, filepath.Base(folder)+"-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(fresh) }()
	if err := os.CopyFS(fresh, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "--prefix", fresh, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", npm.Args, err, out)
	}
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return dir
}
