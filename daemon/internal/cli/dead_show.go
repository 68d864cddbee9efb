package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/daemon/internal/legible"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

type deadShowCommand struct {
	Queue  string `arg:"" help:"The work queue whose dead letter is meant."`
	ID     string `arg:"" help:"Its id, as the list has it."`
	Output string `short:"o" enum:"text,json" default:"text" placeholder:"FORMAT" help:"How to show it: as text, or as json, in the format of an export."`
	Body   bool   `help:"Print nothing but the body, as it is."`
}

// Run shows every dead letter that has the id.
func (s *deadShowCommand) Run(ctx context.Context, a App) error {
	b, err := a.operator()
	if err != nil {
		return err
	}
	traceURL, err := settings.TraceURL()
	if err != nil {
		return err
	}
	looked, err := b.Letters(ctx, s.Queue, operator.Selection{IDs: []string{s.ID}}, func(l *operator.Letter) error {
		switch {
		case s.Body:
			_, err := a.Out.Write(l.Body())
			return err
		case s.Output == "json":
			line, err := l.Line()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Out, "%s\n", line)
			return err
		}
		return show(a.Out, l, traceURL)
	})
	if err != nil {
		return fmt.Errorf("dead letter %s of %s not shown: %w", legible.Line(s.ID), s.Queue, err)
	}
	a.warnOfLimit(s.Queue, looked)
	if looked.Matched == 0 {
		return fmt.Errorf("no dead letter of %s has the id %s, of %d looked at; %s dead list %s lists them", s.Queue, legible.Line(s.ID), looked.All, a.Name, s.Queue)
	}
	return nil
}

// show prints a dead letter for a person.
func show(out io.Writer, l *operator.Letter, traceURL string) error {
	var page strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&page, "%-10s%s\n", name, strings.ReplaceAll(legible.Lines(value), "\n", "\n"+strings.Repeat(" ", 10)))
		}
	}
	line("id", l.ID)
	line("queue", l.Queue)
	line("reason", l.Reason)
	line("error", l.Error)
	line("attempts", fmt.Sprint(l.Attempts))
	if l.Replayed > 0 {
		line("replayed", fmt.Sprint(l.Replayed))
	}
	if !l.DeadAt.IsZero() {
		line("since", fmt.Sprintf("%s, %s ago", l.DeadAt.Local().Format(time.RFC3339), since(l.DeadAt)))
	}
	line("group", l.Group)
	if trace := l.TraceID(); trace != "" && traceURL != "" {
		line("trace", strings.ReplaceAll(traceURL, "{trace}", url.PathEscape(trace)))
	} else {
		line("trace", trace)
	}
	fmt.Fprintln(&page, "\nproperties")
	for _, p := range l.Properties() {
		fmt.Fprintf(&page, "  %s: %s\n", p.Name, legible.Line(p.Value))
	}
	headers := l.Headers()
	if len(headers) > 0 {
		fmt.Fprintln(&page, "\nheaders")
	}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		fmt.Fprintf(&page, "  %s: %s\n", legible.Line(name), legible.Line(legible.Header(headers[name])))
	}
	kind, text := legible.Body(l.Body(), l.Size)
	fmt.Fprintf(&page, "\nbody, %s of %s\n%s\n", plural(l.Size, "byte", "bytes"), kind, legible.Lines(text))
	_, err := io.WriteString(out, page.String())
	return err
}
