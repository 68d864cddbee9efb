package docstest

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// What somebody copies into warren.env has no comment behind a value: systemd takes it for a
// part of that.
func TestNoCommentIsBehindAValue(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("found %d pages: %v", len(pages), err)
	}
	behind := regexp.MustCompile(`(?m)^(?:WARREN|OTEL)_\S+=.*[ \t]#.*$`)
	for _, page := range append(pages, "../../README.md", "../../config.example.env") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range behind.FindAllString(string(text), -1) {
			t.Errorf("%s: %s", page, line)
		}
	}
}
