package cli

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/warrenmq/warren/daemon/internal/settings"
)

// manPage is a page of the manual, as man shows it.
func manPage(t *testing.T, section string) string {
	t.Helper()
	var source, stderr strings.Builder
	app := testApp
	app.Out = &source
	if err := app.Execute(t.Context(), []string{"man", section}); err != nil {
		t.Fatalf("man %s: %v", section, err)
	}
	cmd := exec.CommandContext(t.Context(), "man", "--warnings", "--local-file", "-")
	cmd.Stdin, cmd.Stderr = strings.NewReader(source.String()), &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=1000", "MANROFFOPT=-c -rHY=0", "MAN_KEEP_FORMATTING=", "PAGER=cat", "MANPAGER=cat")
	shown, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("man shows %s with %v and %q, want no warning; apt-get install man-db provides man", section, err, stderr.String())
	}
	return string(shown)
}

// describes tells whether the page has the paragraph of a term.
func describes(shown, term, help string) bool {
	return regexp.MustCompile(`(?m)^ {7}` + regexp.QuoteMeta(term) + `\s+` + regexp.QuoteMeta(help) + `$`).MatchString(shown)
}

func TestManualHasEveryCommandAndFlag(t *testing.T) {
	shown := manPage(t, "1")
	app, err := testApp.parser(new(commands))
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
	if !strings.Contains(shown, "/usr/share/warren") {
		t.Error("warren(1) lacks the files of the packages")
	}
}

// The page has what the example has, every variable that there is, and nothing else.
func TestManualHasEveryVariable(t *testing.T) {
	shown := manPage(t, "5")
	queueOrSchedule := regexp.MustCompile("^WARREN_(QUEUE|SCHEDULE)_[A-Z]+_")
	known := make(map[string]bool)
	help := ""
	for line := range strings.Lines(settings.Example(testApp.Processors)) {
		line = strings.TrimSpace(line)
		name, _, isVariable := strings.Cut(strings.TrimPrefix(line, "#"), "=")
		if !isVariable || !strings.HasPrefix(name, "WARREN_") {
			help = strings.TrimPrefix(line, "# ")
			continue
		}
		name = queueOrSchedule.ReplaceAllString(name, "WARREN_${1}_<NAME>_")
		known[name] = true
		if !describes(shown, name, help) {
			t.Errorf("warren.env(5) lacks %s with %q", name, help)
		}
	}
	if len(known) < 50 {
		t.Errorf("the example has %d variables only", len(known))
	}
	for _, s := range settings.Sections(testApp.Processors) {
		for _, v := range s.Vars {
			if !known[v.Name] {
				t.Errorf("warren.env(5) has %s, which the example has not", v.Name)
			}
		}
	}
}
