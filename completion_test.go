package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

func TestComplete(t *testing.T) {
	var grammar struct {
		Dead struct {
			List struct {
				Format string `enum:"table,json" default:"table"`
				All    bool   `short:"a"`
			} `cmd:"" help:"List."`
			Drop struct {
				Queue string `arg:""`
				How   string `arg:"" enum:"all,one"`
			} `cmd:""`
		} `cmd:""`
		Secret struct{} `cmd:"" hidden:""`
		Run    struct {
			File string `short:"f"`
		} `cmd:"" default:"1"`
		Verbose bool `help:"Say more."`
	}
	app, err := kong.New(&grammar)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ words, want string }{
		{"", ""},
		{"|", "dead run"},
		{"|r", "run"},
		{"|x", ""},
		{"--v", "--verbose\tSay more."},
		{"dead|", "list\tList. drop"},
		{"dead|--", "--help\tShow context-sensitive help. --verbose\tSay more."},
		{"--verbose|dead|list|--f", "--format"},
		{"dead|list|", "--format --all --help\tShow context-sensitive help. --verbose\tSay more."},
		{"dead|list|--format|", "table json"},
		{"dead|list|--format|t", "table"},
		{"dead|list|--format=t", "--format=table"},
		{"dead|list|--format|=", "table json"}, // as bash has it
		{"dead|list|--format|=|j", "json"},
		{"dead|list|--format=json|--a", "--all"},
		{"dead|list|-a|--f", "--format"},
		{"dead|drop|", ""},
		{"dead|drop|dead|", "all one"},
		{"run|-f|", ""},
		{"run|--file=", ""},
		{"run|--file=/etc/passwd|--f", "--file"},
	} {
		var words []string
		if test.words != "" {
			words = strings.Split(test.words, "|")
		}
		if got := strings.Join(complete(app.Model.Node, words), " "); got != test.want {
			t.Errorf("words %q: got %q, want %q", words, got, test.want)
		}
	}
}

// Each script has its shell offer what warren complete does, and files where that is
// nothing.
func TestCompletionInShells(t *testing.T) {
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(dir, "warren")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "body.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	drivers := map[string]string{
		"bash": `
			source <(warren completion bash)
			read -ra COMP_WORDS <<<"${line/=/ = }"
			[[ $line != *" " ]] || COMP_WORDS+=("")
			COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
			_warren
			[[ $(complete -p warren) == "complete -o default -F _warren warren" && ${#COMPREPLY[@]} != 0 ]] ||
				mapfile -t COMPREPLY < <(compgen -f "${COMP_WORDS[COMP_CWORD]}") # as -o default does
			printf '%s\n' "${COMPREPLY[@]}"`,
		"fish": `
			warren completion fish | source
			complete -C "$line" | cut -f 1 | sed s/--file=//`,
		// On a terminal, as zsh completes nowhere else. What it would insert or list is what counts.
		"zsh": `
			zmodload zsh/zpty
			zpty z "TERM=dumb zsh -f -i"
			zpty -w z 'autoload -U compinit; compinit -D -u; source <(warren completion zsh); PS1=; show() { print -r -- "<$BUFFER>"; exit }; zle -N show; bindkey "^X" show; setopt menu_complete; print REA""DY'
			zpty -r z answer '*READY*'
			zpty -w -n z "$line"$'\t\030'
			zpty -r z answer '*<*>*'
			print -r -- "${${answer##*<}%%>*}"`,
	}
	for _, test := range []struct {
		line string
		want []string
		zsh  string // the line with the first of them
	}{
		{"warren ver", []string{"version"}, "warren version"},
		{"warren completion ", []string{"bash", "fish", "zsh"}, "warren completion bash"},
		{"warren publish emails {} --t", []string{"--timeout", "--type"}, "warren publish emails {} --timeout"},
		{"warren publish emails --file bo", []string{"body.json"}, "warren publish emails --file body.json"},
		{"warren publish emails --file=bo", []string{"body.json"}, "warren publish emails --file=body.json"},
	} {
		for shell, driver := range drivers {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, shell, "-c", driver)
			cmd.Dir = dir
			// The race detector has each program wait for a second at its end, but for this.
			cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0", "PATH="+dir+":"+os.Getenv("PATH"), "line="+test.line, "HOME="+dir)
			stdout, stderr, status := output(t, cmd)
			got := strings.FieldsFunc(stdout, func(r rune) bool { return r == '\n' })
			want := test.want
			if shell == "zsh" {
				got, want = []string{strings.TrimSpace(stdout)}, []string{test.zsh}
			}
			slices.Sort(got)
			if status != 0 || stderr != "" || !slices.Equal(got, want) {
				t.Errorf("%s, %q: got %q, standard error %q and exit status %d, want %q", shell, test.line, got, stderr, status, want)
			}
		}
	}
}
