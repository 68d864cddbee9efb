package docstest

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every test that the documentation names is there.
func TestTestsOfTheDocumentationExist(t *testing.T) {
	defined := make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another test has just removed it
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		for _, f := range function.FindAllSubmatch(content, -1) {
			defined[string(f[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for page, least := range map[string]int{"guarantees.md": 30, "track-record.md": 20, "runbook.md": 18} {
		content, err := os.ReadFile(filepath.Join("../../docs", page))
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(content), -1)
		slices.Sort(named)
		if named = slices.Compact(named); len(named) < least {
			t.Errorf("docs/%s names %d tests, want %d at least", page, len(named), least)
		}
		for _, name := range named {
			if !defined[name] {
				t.Errorf("docs/%s names %s, which no file of tests has", page, name)
			}
		}
	}
}

// Every commit of the track record is one of this project's. A copy without its history
// cannot say.
func TestCommitsOfTheTrackRecordExist(t *testing.T) {
	content, err := os.ReadFile("../../docs/track-record.md")
	if err != nil {
		t.Fatal(err)
	}
	shallow, err := exec.Command("git", "rev-parse", "--is-shallow-repository").Output()
	if err != nil || strings.TrimSpace(string(shallow)) != "false" {
		t.Logf("not looked at: %v", err)
		return
	}
	for _, commit := range regexp.MustCompile(`\| ([0-9a-f]{7}) \|`).FindAllStringSubmatch(string(content), -1) {
		if out, err := exec.Command("git", "merge-base", "--is-ancestor", commit[1], "HEAD").CombinedOutput(); err != nil {
			t.Errorf("commit %s of docs/track-record.md is none of this project's: %v %s", commit[1], err, out)
		}
	}
}
