package cli

import (
	"strings"
	"testing"

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
