package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/consumer/operator/filter"
)

// chosen say which dead letters an act is about.
type chosen struct {
	Queue  string   `arg:"" help:"The work queue whose dead letters are meant."`
	IDs    []string `arg:"" optional:"" name:"id" help:"Their ids, as the list has them."`
	Filter string   `short:"f" placeholder:"FILTER" help:"All that match, such as 'reason = exhausted and age < 2h'; docs/dead-letters.md has the language."`
	All    bool     `help:"All there are."`
	Limit  int      `short:"n" placeholder:"N" help:"The first N of them only."`
	acting
}

// selection reads which are meant. What it finds is added to found.
func (c *chosen) selection(found map[string]bool) (operator.Selection, error) {
	f, err := filter.Parse(c.Filter, operator.LetterFields)
	switch {
	case err != nil:
	case c.Limit < 0:
		err = fmt.Errorf("--limit is %d; it must be positive", c.Limit)
	case c.All && (len(c.IDs) > 0 || f != nil):
		err = errors.New("--all is given with ids or a filter; leave one out")
	case !c.All && len(c.IDs) == 0 && f == nil:
		err = errors.New("name the ids of the dead letters, or give --filter or --all")
	}
	which := operator.Selection{IDs: c.IDs, Filter: f, Most: c.Limit}
	if len(c.IDs) > 0 {
		which.Found = func(id string) { found[id] = true }
	}
	return which, err
}

// agree counts what the act would be about, says so, and asks. With --yes there is nothing to
// ask, and nothing is counted.
func (c *chosen) agree(ctx context.Context, a App, b operator.Broker, which operator.Selection, act, how string) (bool, error) {
	if c.Yes && !c.DryRun {
		return true, nil
	}
	reasons := make(map[string]int)
	looked, err := b.Letters(ctx, c.Queue, which, func(l *operator.Letter) error {
		reasons[visible(l.Reason)]++
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("dead letters of %s not counted: %w", c.Queue, err)
	}
	a.warnOfLimit(c.Queue, looked)
	what := make([]string, 0, len(reasons))
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		what = append(what, fmt.Sprintf("%d %s", reasons[reason], reason))
	}
	if looked.Matched == 0 {
		fmt.Fprintf(a.Out, "no dead letter of %s is meant, of %d looked at\n", c.Queue, looked.All)
		return false, c.missing(nil)
	}
	return c.proceed(a, fmt.Sprintf("%s %s of %s%s: %s", act, plural(looked.Matched, "dead letter", "dead letters"), c.Queue, how, strings.Join(what, ", ")))
}

// missing is an error that names the ids that were not found.
func (c *chosen) missing(found map[string]bool) error {
	var missing []string
	for _, id := range c.IDs {
		if !found[id] {
			missing = append(missing, printable(id))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &Partial{fmt.Sprintf("no dead letter of %s has the id %s", c.Queue, strings.Join(missing, " or "))}
}

// outcome says what an act has come to: did is what was done.
func (c *chosen) outcome(a App, did string, done operator.Done, found map[string]bool, err error) error {
	fmt.Fprintf(a.Out, "%s %s of %s\n", did, plural(done.Done, "dead letter", "dead letters"), c.Queue)
	text := ""
	switch {
	case errors.Is(err, context.Canceled):
		text = "interrupted; the rest is where it was"
	case err != nil:
		text = fmt.Sprintf("%v; the rest is where it was", err)
	case done.Left > 0:
		text = fmt.Sprintf("%s left where it was, since it cannot be published: %v", plural(done.Left, "dead letter was", "dead letters were"), done.Why)
	default:
		return c.missing(found)
	}
	if done.Done == 0 && done.Left == 0 {
		return errors.New(text)
	}
	return &Partial{text}
}

// progress returns what shows on a terminal how far an act has come, and what takes that away.
func (a App) progress(did string) (show func(operator.Done), end func()) {
	if !onTerminal(a.Err) {
		return func(operator.Done) {}, func() {}
	}
	begin := time.Now()
	last := begin
	return func(d operator.Done) {
		if time.Since(last) < 200*time.Millisecond {
			return
		}
		last = time.Now()
		fmt.Fprintf(a.Err, "\r\x1b[K%d %s, %d of %d looked at, %.0f/s", d.Done, did, d.Looked, d.All, float64(d.Done)/time.Since(begin).Seconds())
	}, func() { fmt.Fprint(a.Err, "\r\x1b[K") }
}
