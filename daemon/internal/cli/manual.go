package cli

import (
	"embed"
	"strings"
	"text/template"

	"github.com/alecthomas/kong"

	"github.com/warrenmq/warren/daemon/internal/settings"
)

// manPages are templates in the language of man(7), each named after its section.
//
//go:embed man
var manPages embed.FS

type manCommand struct {
	Section string `arg:"" enum:"1,5" help:"The section that the page is of: 1, commands, or 5, their environment."`
}

// Run prints a page of the manual, made from what --help and the example file are made
// from.
func (m manCommand) Run(app *kong.Context, a App) error {
	name := map[string]string{"1": "commands.1", "5": "environment.5"}[m.Section]
	page, err := template.New(name).Funcs(template.FuncMap{
		"program":  func() string { return a.Name },
		"upper":    strings.ToUpper,
		"version":  func() string { return a.Version },
		"commands": func() []*kong.Node { return app.Model.Leaves(true) },
		"globals":  func() []*kong.Flag { return app.Model.Flags },
		"sections": func() []settings.Section { return settings.Sections(a.Processors) },
		"roff":     roff,
		"text":     roffText,
		"flag":     roffFlag,
	}).ParseFS(manPages, "man/"+name)
	if err != nil {
		return err
	}
	return page.Execute(a.Out, nil)
}

// roff is text within a line of man(7), every character as it is.
func roff(s string) string {
	return strings.NewReplacer(`\`, `\(rs`, "-", `\-`, "'", `\(aq`, `"`, `\(dq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
}

// roffText is prose: a line of its own, its hyphens and apostrophes as they are printed.
func roffText(s string) string {
	return `\&` + strings.NewReplacer(`\`, `\(rs`, "^", `\(ha`, "~", `\(ti`).Replace(s)
}

// roffFlag is a flag and the placeholder of its value.
func roffFlag(f *kong.Flag) string {
	out := `\fB\-\-` + roff(f.Name) + `\fR`
	if f.Short != 0 {
		out = `\fB\-` + string(f.Short) + `\fR, ` + out
	}
	if !f.IsBool() {
		out += `=\fI` + roff(f.FormatPlaceHolder()) + `\fR`
	}
	return out
}
