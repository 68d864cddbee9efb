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
	"github.com/warrenmq/warren/daemon/internal/legible"
)

// picked says of which messages an act is about, beside their ids and a filter.
type picked struct {
	All   bool `help:"All there are."`
	Limit int  `short:"n" placeholder:"N" help:"The first N of them only."`
	acting
}

// chosen say which dead letters an act is about.
type chosen struct {
	Queue  string   `arg:"" help:"The work queue whose dead letters are meant."`
	IDs    []string `arg:"" optional:"" name:"id" help:"Their ids, as the list has them."`
	Filter string   `short:"f" placeholder:"FILTER" help:"All that match, such as 'reason = exhausted and age < 2h'; docs/dead-letters.md has the language."`
	picked
}

// pick begins an act on dead letters.
func (c *chosen) pick() (picking, operator.Selection, error) {
	p := picking{picked: &c.picked, queue: c.Queue, ids: c.IDs, filter: c.Filter, one: "dead letter", several: "dead letters", found: make(map[string]bool)}
	which, err := p.selection(operator.LetterFields)
	return p, which, err
}

// A picking is an act on what was picked.
type picking struct {
	*picked
	queue        string
	ids          []string
	filter       string
	one, several string // what they are called
	found        map[string]bool
}

// selection reads which are meant.
func (p *picking) selection(fields filter.Fields) (operator.Selection, error) {
	f, err := filter.Parse(p.filter, fields)
	switch {
	case err != nil:
	case p.Limit < 0:
		err = fmt.Errorf("--limit is %d; it must be positive", p.Limit)
	case p.All && (len(p.ids) > 0 || f != nil):
		err = errors.New("--all is given with ids or a filter; leave one out")
	case !p.All && len(p.ids) == 0 && f == nil:
		err = fmt.Errorf("name the ids of the %s, or give --filter or --all", p.several)
	}
	which := operator.Selection{IDs: p.ids, Filter: f, Most: p.Limit}
	if len(p.ids) > 0 {
		which.Found = func(id string) { p.found[id] = true }
	}
	return which, err
}

// agree says what the act would be about, which it counts, and asks. With --yes there is nothing to
// ask, and nothing is counted.
func (p *picking) agree(a App, act, how string, count func() (operator.Looked, map[string]int, error)) (bool, error) {
	if p.Yes && !p.DryRun {
		return true, nil
	}
	looked, reasons, err := count()
	if err != nil {
		return false, fmt.Errorf("%s of %s not counted: %w", p.several, p.queue, err)
	}
	if looked.Matched == 0 {
		fmt.Fprintf(a.Out, "no %s of %s is meant\n", p.one, p.queue)
		return false, p.missing()
	}
	what := make([]string, 0, len(reasons))
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		if n := reasons[reason]; n > 0 {
			reason = fmt.Sprintf("%d %s", n, reason)
		}
		what = append(what, reason)
	}
	on, err := p.proceed(a, fmt.Sprintf("%s %s of %s%s: %s", act, plural(looked.Matched, p.one, p.several), p.queue, how, strings.Join(what, ", ")))
	clear(p.found)
	return on, err
}

// missing is an error that names the ids that were not found.
func (p *picking) missing() error {
	var missing []string
	for _, id := range p.ids {
		if !p.found[id] {
			missing = append(missing, printable(id))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &Partial{fmt.Sprintf("no %s of %s has the id %s", p.one, p.queue, strings.Join(missing, " or "))}
}

// outcome says what an act has come to: did is what was done.
func (p *picking) outcome(a App, did string, done operator.Done, err error) error {
	fmt.Fprintf(a.Out, "%s %s of %s\n", did, plural(done.Done, p.one, p.several), p.queue)
	text := ""
	switch {
	case errors.Is(err, context.Canceled):
		text = "interrupted; the rest is left"
	case err != nil:
		text = fmt.Sprintf("%v; the rest is left", err)
	case done.Left > 0:
		text = fmt.Sprintf("%s cannot be published: %v",
			plural(done.Left, p.one+" was left where it was, since it", p.several+" were left where they were, since they"), done.Why)
	default:
		return p.missing()
	}
	if done.Done == 0 && done.Left == 0 {
		return errors.New(text)
	}
	return &Partial{text}
}

// countLetters counts the dead letters that are meant, by their reasons.
func (a App) countLetters(ctx context.Context, b operator.Broker, queue string, which operator.Selection) (operator.Looked, map[string]int, error) {
	reasons := make(map[string]int)
	looked, err := b.Letters(ctx, queue, which, func(l *operator.Letter) error {
		reasons[legible.Line(l.Reason)]++
		return nil
	})
	a.warnOfLimit(queue, looked)
	return looked, reasons, err
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
