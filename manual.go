package main

import (
	"embed"
	"slices"
	"strings"
	"text/template"

	"github.com/alecthomas/kong"
)

// manPages are templates in the language of man(7).
//
//go:embed docs/man
var manPages embed.FS

type manCommand struct {
	Page string `arg:"" enum:"warren.1,warren.env.5" help:"The page: warren.1 or warren.env.5."`
}

// Run prints a page of the manual, made from what --help and the example file are made
// from.
func (m manCommand) Run(app *kong.Context, std streams) error {
	page, err := template.New(m.Page).Funcs(template.FuncMap{
		"version":  buildVersion,
		"commands": func() []*kong.Node { return app.Model.Leaves(true) },
		"globals":  func() []*kong.Flag { return app.Model.Flags },
		"sections": sections,
		"roff":     roff,
		"text":     roffText,
		"flag":     roffFlag,
	}).ParseFS(manPages, "docs/man/"+m.Page)
	if err != nil {
		return err
	}
	return page.Execute(std.out, nil)
}

// A section is a part of warren.env(5).
type section struct {
	Title, Text string
	Vars        []variable
}

// sections are all variables that there are, those of queues and schedules with <NAME> for
// a name.
func sections() []section {
	const prefix = envPrefix + "QUEUE_<NAME>_"
	const named = "<NAME> being its name in upper case, with - and . as _."
	all := []section{
		{"THE DAEMON", "These are there once.", daemonVariables()},
		{"QUEUES", "Each queue has these, " + named, variables(prefix, new(queueSettings))},
	}
	for _, name := range standard.Names() {
		settings, _ := standard.Lookup(name)
		if vars := variables(prefix, settings); len(vars) > 0 {
			all = append(all, section{"PROCESSOR " + strings.ToUpper(name), "A queue whose processor is " + name + " has these, too.", vars})
		}
	}
	return append(all, section{"SCHEDULES", "Each schedule has these, " + named, variables(envPrefix+"SCHEDULE_<NAME>_", new(scheduleSettings))})
}

// daemonVariables are those that are there once.
func daemonVariables() []variable {
	return slices.Concat(variables(envPrefix, new(brokerSettings)), variables(envPrefix, new(daemonSettings)), variables(envPrefix, new(databaseSettings)))
}

// Name, Help and Default are what the manual says of v.
func (v variable) Name() string    { return v.name }
func (v variable) Help() string    { return v.tag.Get("desc") }
func (v variable) Default() string { return v.tag.Get("default") }

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
