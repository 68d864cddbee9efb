package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/daemon/internal/legible"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

type checkCommand struct {
	Watch time.Duration `placeholder:"DURATION" help:"Look again every so often, such as 30s, until it is interrupted."`
	Look  bool          `help:"Look at the first messages of the dead letters and of what waits, too: why they are there, and since when. The broker counts such looks, as docs/dead-letters.md says."`
	format
}

// Run prints a finding for each thing that was looked at. It returns an error if one is
// not as it should be.
func (k *checkCommand) Run(ctx context.Context, a App) error {
	cfg, err := settings.Load(a.Program, a.Err)
	if err != nil {
		return err
	}
	if k.Watch < 0 {
		return fmt.Errorf("--watch is %v; it must be positive", k.Watch)
	}
	for {
		out := findings{list: k.list(a.Out, nil)}
		k.check(ctx, a, cfg, &out)
		err := out.end()
		if k.Watch == 0 {
			return errors.Join(err, context.Cause(ctx))
		}
		if k.Output == "table" {
			fmt.Fprintf(a.Out, "%s: %s\n\n", time.Now().Format(time.TimeOnly), cmp.Or(words(err), "all is well"))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(k.Watch):
		}
	}
}

func words(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// check looks at everything.
func (k *checkCommand) check(ctx context.Context, a App, cfg *settings.Config, out *findings) {
	out.add(consumer.Finding{Severity: consumer.SeverityOK, What: "configuration", Text: "queues " + strings.Join(cfg.QueueNames(), ", ")})
	consumer.Check(ctx, cfg.Consumer, out.add)
	checkFleet(ctx, a, cfg, out)
	checkManagement(ctx, cfg, out)
	if k.Look {
		look(ctx, a, cfg, out)
	}
	checkAdmin(cfg, out)
	if cfg.Database.URL != "" {
		checkDatabase(ctx, cfg, out)
	}
	for _, p := range cfg.Processors {
		checkProcessor(ctx, p, out)
	}
}

// findings are printed as they are made, and counted.
type findings struct {
	list     *listing
	counts   []consumer.Counts // of queues that are there
	severity map[string]consumer.Severity
	asked    bool // the daemons were
	here     bool // one on this machine that works these queues has answered
	faults   int
	warnings int
	err      error // of printing
}

// marks begin the line of a finding.
var marks = map[consumer.Severity]string{
	consumer.SeverityOK: "ok     ", consumer.SeverityNote: "note   ", consumer.SeverityWarning: "WARN   ", consumer.SeverityFault: "FAULT  ",
}

// add prints a finding. Why it matters, and what cures it, have lines of their own where
// both are said.
func (f *findings) add(found consumer.Finding) {
	if f.severity == nil {
		f.severity = make(map[string]consumer.Severity)
	}
	f.severity[found.What] = found.Severity
	switch found.Severity {
	case consumer.SeverityFault:
		f.faults++
	case consumer.SeverityWarning:
		f.warnings++
	}
	if found.Queue != nil {
		f.counts = append(f.counts, *found.Queue)
	}
	if f.err != nil {
		return
	}
	if f.list.format != "table" {
		f.err = f.list.add(found)
		return
	}
	text := legible.Line(found.String())
	if found.Why != "" {
		text = fmt.Sprintf("%s: %s\n       why:  %s", legible.Line(found.What), legible.Line(found.Text), legible.Line(found.Why))
		if found.Cure != "" {
			text += "\n       cure: " + legible.Line(found.Cure)
		}
	}
	_, f.err = fmt.Fprintf(f.list.out, "%s%s\n", marks[found.Severity], text)
}

// end says how bad it is: the exit status is 1 if there is a fault, and 3 if there are
// warnings alone.
func (f *findings) end() error {
	if f.list.format == "json" && f.err == nil {
		f.err = f.list.end()
	}
	switch {
	case f.faults > 0:
		return errors.Join(fmt.Errorf("faults found: %d", f.faults), f.err)
	case f.err != nil:
		return f.err
	case f.warnings > 0:
		return &Partial{fmt.Sprintf("warnings: %d", f.warnings)}
	}
	return nil
}

// processorWithin bounds what the check of a processor may take.
const processorWithin = 10 * time.Second

// checkProcessor looks at what a processor depends on.
func checkProcessor(ctx context.Context, p settings.Processor, out *findings) {
	ctx, cancel := context.WithTimeoutCause(ctx, processorWithin, fmt.Errorf("no answer within %v", processorWithin))
	defer cancel()
	what := "processor of " + p.Queue.Name
	found, ok, err := p.Check(ctx)
	switch {
	case !ok:
	case err != nil:
		text, cure, _ := strings.Cut(strings.ReplaceAll(err.Error(), "\n", ", "), "; ")
		out.add(consumer.Finding{
			Severity: consumer.SeverityFault, What: what, Text: text,
			Why:  "messages of the queue wait, fail or are dead-lettered until that is cured",
			Cure: cmp.Or(cure, "start what it names, or correct the variables "+p.EnvPrefix+"..."),
		})
	default:
		out.add(consumer.Finding{Severity: consumer.SeverityOK, What: what, Text: found})
	}
}

// checkDatabase looks for Warren's tables.
func checkDatabase(ctx context.Context, cfg *settings.Config, out *findings) {
	db, err := database.New(cfg.Database, cfg.Log)
	if err == nil {
		err = errors.Join(db.Check(ctx), db.Close())
	}
	if err != nil {
		text, cure, _ := strings.Cut(err.Error(), "; ")
		out.add(consumer.Finding{Severity: consumer.SeverityFault, What: "database", Text: text, Cure: cure})
		return
	}
	out.add(consumer.Finding{Severity: consumer.SeverityOK, What: db.Name(), Text: "Warren's tables are there"})
}
