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
)

// Each script has its shell offer what warren complete does, and files where that is
// nothing.
func TestCompletionInShells(t *testing.T) {
	t.Parallel()
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
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, shell, "-c", driver)
			cmd.Dir = dir
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
