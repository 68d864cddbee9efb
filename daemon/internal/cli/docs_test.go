package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCommandsOfTheDocumentationExist parses every command of Warren on every page, in a
// sentence or in a block of shell: there are such subcommands and flags, with such arguments.
func TestCommandsOfTheDocumentationExist(t *testing.T) {
	pages, err := filepath.Glob("../../../docs/*.md")
	if err != nil || len(pages) < 20 {
		t.Fatalf("found %d pages, error %v", len(pages), err)
	}
	command := regexp.MustCompile("`(warren [a-z][^`\n]*)`|(?m)^(?:\\$ )?(warren [a-z].*)$")
	found := 0
	for _, page := range pages {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range command.FindAllStringSubmatch(string(content), -1) {
			text := m[1] + m[2]
			args := shellWords(text)[1:]
			parser, err := testApp.parser(new(commands))
			if err != nil {
				t.Fatal(err)
			}
			found++
			_, err = parser.Parse(args)
			if err != nil && !isGroup(args, err) {
				t.Errorf("%s has %q: %v", filepath.Base(page), text, err)
			}
		}
	}
	if found < 80 {
		t.Errorf("found %d commands, want more", found)
	}
}

// isGroup tells whether only the name of commands is given, as a sentence may, or what they
// are about is left out.
func isGroup(args []string, err error) bool {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			return false
		}
	}
	return strings.HasPrefix(err.Error(), "expected ")
}

// shellWords are the words of a command as a shell has them, up to the first of another one.
func shellWords(text string) (words []string) {
	for _, m := range regexp.MustCompile(`'([^']*)'|"([^"]*)"|([^\s'"]+)`).FindAllStringSubmatch(text, -1) {
		if m[3] == "|" || m[3] == ">" || m[3] == "<" || strings.HasPrefix(m[3], "#") {
			break
		}
		words = append(words, m[1]+m[2]+m[3])
	}
	return words
}
