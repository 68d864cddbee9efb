package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// completions are scripts that have a shell ask the hidden subcommand complete. A line of its
// answer is a candidate, or a candidate, a tab and what it means; no line stands for files.
// {program} is the program's name, {function} the same where no hyphen may be.
var completions = map[string]string{
	"bash": `# Completion of {program} in bash: source <({program} completion bash)
_{function}() {
	local candidates
	mapfile -t candidates < <("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
	COMPREPLY=("${candidates[@]%%$'\t'*}")
}
complete -o default -F _{function} {program}
`,
	"zsh": `#compdef {program}
# Completion of {program} in zsh: source <({program} completion zsh)
_{program}() {
	local answer
	answer=$("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
	if [[ -z $answer ]]; then
		[[ $PREFIX != --*=* ]] || compset -P 1 '*='
		_files
		return
	fi
	local -a candidates=("${(@f)${${answer//:/\\:}//$'\t'/:}}")
	_describe {program} candidates
}
if [[ $funcstack[1] == _{program} ]]; then
	_{program}
else
	compdef _{program} {program}
fi
`,
	"fish": `# Completion of {program} in fish: {program} completion fish | source
function __{function}_complete
	set -l words (commandline -opc)
	set -l current (commandline -ct)
	set -l candidates ($words[1] complete -- $words[2..-1] "$current" 2>/dev/null)
	if test (count $candidates) -eq 0
		set -l flag (string match --regex -- '^--[^=]*=' "$current")
		set candidates "$flag"(__fish_complete_path (string replace -- "$flag" '' "$current"))
	end
	printf '%s\n' $candidates
end
complete -c {program} -f -a '(__{function}_complete)'
`,
}

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"The shell: bash, zsh or fish."`
}

// Run prints the script for the shell.
func (c completionCommand) Run(a App) error {
	function := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, a.Name)
	_, err := strings.NewReplacer("{program}", a.Name, "{function}", function).WriteString(a.Out, completions[c.Shell])
	return err
}

type completeCommand struct {
	Words []string `arg:"" passthrough:"" help:"Two dashes, and what follows the program so far; the last word is to be completed."`
}

// Run prints what the last word may become.
func (c completeCommand) Run(app *kong.Context, a App) error {
	for _, candidate := range complete(app.Model.Node, c.Words[1:]) {
		fmt.Fprintln(a.Out, candidate)
	}
	return nil
}

// complete returns the candidates for the last word, where the others have led from root.
func complete(root *kong.Node, words []string) []string {
	if len(words) == 0 {
		return nil
	}
	node, flags, args := root, root.Flags, 0
	var flag *kong.Flag // whose value comes next
	for _, word := range words[:len(words)-1] {
		switch {
		case word == "=": // bash makes three words of --flag=value
		case flag != nil:
			flag = nil
		case strings.HasPrefix(word, "-"):
			flag = awaiting(flags, word)
		default:
			if next := child(node, word); next != nil {
				node, flags = next, slices.Concat(next.Flags, flags)
			} else {
				args++
			}
		}
	}

	last := words[len(words)-1]
	name, value, assigned := strings.Cut(last, "=")
	switch {
	case flag != nil:
		return values(flag.Value, "", strings.TrimPrefix(last, "="))
	case assigned && awaiting(flags, name) != nil:
		return values(awaiting(flags, name).Value, name+"=", value)
	case len(node.Children) > 0 && !strings.HasPrefix(last, "-"):
		var out []string
		for _, next := range node.Children {
			if !next.Hidden {
				out = matching(out, last, next.Name, next.Help)
			}
		}
		return out
	case args < len(node.Positional) && !strings.HasPrefix(last, "-"):
		return values(node.Positional[args], "", last)
	}
	var out []string
	for _, flag := range flags {
		if !flag.Hidden {
			out = matching(out, last, "--"+flag.Name, flag.Help)
		}
	}
	return out
}

// awaiting is the flag that word is, if its value comes next.
func awaiting(flags []*kong.Flag, word string) *kong.Flag {
	for _, flag := range flags {
		if (word == "--"+flag.Name || flag.Short != 0 && word == "-"+string(flag.Short)) && !flag.IsBool() {
			return flag
		}
	}
	return nil
}

func child(node *kong.Node, name string) *kong.Node {
	for _, next := range node.Children {
		if next.Name == name {
			return next
		}
	}
	return nil
}

// values are those of v that begin so, if there is a list of them.
func values(v *kong.Value, prefix, begin string) []string {
	var out []string
	if v.Enum != "" {
		for _, value := range v.EnumSlice() {
			out = matching(out, prefix+begin, prefix+value, "")
		}
	}
	return out
}

// matching appends a candidate if it begins so.
func matching(out []string, begin, candidate, help string) []string {
	if !strings.HasPrefix(candidate, begin) {
		return out
	}
	if help != "" {
		candidate += "\t" + help
	}
	return append(out, candidate)
}
