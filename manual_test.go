package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// manPage is a page of the manual, as man shows it.
func manPage(t *testing.T, page string) string {
	t.Helper()
	source, stderr, status := output(t, warren(t, nil, "man", page))
	if status != 0 {
		t.Fatalf("warren man %s: exit status %d: %s", page, status, stderr)
	}
	cmd := exec.CommandContext(t.Context(), "man", "--warnings", "--local-file", "-")
	cmd.Stdin = strings.NewReader(source)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=1000", "MANROFFOPT=-c -rHY=0", "MAN_KEEP_FORMATTING=", "PAGER=cat", "MANPAGER=cat")
	shown, stderr, status := output(t, cmd)
	if status != 0 || stderr != "" {
		t.Fatalf("man shows %s with exit status %d and %q, want 0 and no warning; apt-get install man-db provides man", page, status, stderr)
	}
	return shown
}

// describes tells whether the page has the paragraph of a term.
func describes(shown, term, help string) bool {
	return regexp.MustCompile(`(?m)^ {7}` + regexp.QuoteMeta(term) + `\s+` + regexp.QuoteMeta(help) + `$`).MatchString(shown)
}

func TestManualHasEveryCommandAndFlag(t *testing.T) {
	shown := manPage(t, "warren.1")
	app, err := kong.New(new(commands))
	if err != nil {
		t.Fatal(err)
	}
	want := func(text, help string) {
		t.Helper()
		if !describes(shown, text, help) {
			t.Errorf("warren(1) lacks %q with %q", text, help)
		}
	}
	for _, command := range app.Model.Leaves(true) {
		if !strings.Contains(shown, "\n   "+command.Summary()+"\n       "+command.Help) {
			t.Errorf("warren(1) lacks %q with %q", command.Summary(), command.Help)
		}
		for _, arg := range command.Positional {
			want(arg.Summary(), arg.Help)
		}
		for _, flag := range command.Flags {
			text := flag.Summary()
			if flag.Short != 0 {
				text = "-" + string(flag.Short) + ", " + text
			}
			want(text, flag.Help)
		}
	}
	want("-h, --help", app.Model.HelpFlag.Help)
}

// The page has what the loader knows, with the example file for its environment, which
// has every processor; and the page has nothing else.
func TestManualHasEveryVariable(t *testing.T) {
	shown := manPage(t, "warren.env.5")
	var entries []string
	for line := range strings.Lines(exampleEnv) {
		line = strings.TrimSpace(line)
		name, value, _ := strings.Cut(strings.TrimPrefix(line, "#"), "=")
		switch {
		case needsMore(name) && value != "":
			entries = append(entries, name+"="+value)
		case name == "WARREN_QUEUES":
			entries = append(entries, line+","+strings.Join(exampleNeedsMore, ","))
		case strings.HasPrefix(line, envPrefix) && !strings.Contains(line, "_MAILDIR"):
			entries = append(entries, line)
		}
	}
	setenv(t, entries...)
	env := newEnvironment()
	_, _ = readConfig(env, os.Stderr) // folders and a database are missing
	known := make(map[string]bool)
	for _, v := range env.vars {
		name := regexp.MustCompile("^WARREN_(QUEUE|SCHEDULE)_[A-Z]+_").ReplaceAllString(v.name, "WARREN_${1}_<NAME>_")
		known[name] = true
		if !describes(shown, name, v.tag.Get("desc")) {
			t.Errorf("warren.env(5) lacks %s with %q", name, v.tag.Get("desc"))
		}
	}
	for _, s := range sections() {
		for _, v := range s.Vars {
			if !known[v.name] {
				t.Errorf("warren.env(5) has %s, which the loader does not know", v.name)
			}
		}
	}
}
