package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/daemon/internal/legible"
)

type deadReplayCommand struct {
	chosen
	To     string        `placeholder:"QUEUE" help:"Put them into this queue, not into that which each came from."`
	Rate   float64       `placeholder:"N" help:"So many a second at most; without it, as fast as the broker takes them."`
	Canary int           `placeholder:"N" help:"Replay N first, see what becomes of them, and stop if more than one in ten of them fails."`
	Watch  time.Duration `default:"30s" placeholder:"DURATION" help:"With --canary: how long to see (30s)."`
	Edit   bool          `help:"Change the body of one dead letter in $EDITOR first; shows the difference."`
}

// Run puts them back.
func (r *deadReplayCommand) Run(ctx context.Context, a App) error {
	p, which, err := r.pick()
	if err == nil && r.Rate < 0 {
		err = fmt.Errorf("--rate is %g; it must be positive", r.Rate)
	}
	if err == nil && (r.Canary < 0 || r.Canary > 0 && (r.To != "" || r.Edit)) {
		err = errors.New("--canary takes a positive number, and neither --to nor --edit")
	}
	if err == nil && r.Edit && len(r.IDs) != 1 {
		err = errors.New("--edit is for one dead letter; name its id")
	}
	if err != nil {
		return err
	}
	b, err := a.operator()
	if err != nil {
		return err
	}
	how := ""
	if r.To != "" {
		how = ", to " + r.To
	}
	options := operator.ReplayOptions{To: r.To, Rate: r.Rate}
	if r.Edit {
		if options.Body, err = r.edited(ctx, a, b, p, which); err != nil {
			return err
		}
	}
	on, err := p.agree(a, "replay", how, func() (operator.Looked, map[string]int, error) { return a.countLetters(ctx, b, r.Queue, which) })
	if !on {
		return err
	}
	first, err := r.canaries(ctx, a, b, which, options)
	if err != nil || r.Canary > 0 && (first.Done == 0 || first.Matched < r.Canary || first.Matched == r.Limit) {
		return p.outcome(a, "replayed", first, err)
	}
	if r.Limit > 0 {
		which.Most -= first.Done // those that were left are met again
	}
	show, end := a.progress("replayed")
	done, err := b.Replay(ctx, r.Queue, which, options, show)
	end()
	done.Done += first.Done
	return p.outcome(a, "replayed", done, err)
}

// canaries replays the first ones, if that is wanted, and returns an error if too many fail.
func (r *deadReplayCommand) canaries(ctx context.Context, a App, b operator.Broker, which operator.Selection, o operator.ReplayOptions) (operator.Done, error) {
	if r.Canary == 0 {
		return operator.Done{}, nil
	}
	if which.Most == 0 || which.Most > r.Canary {
		which.Most = r.Canary
	}
	var ids []string
	found := which.Found
	which.Found = func(id string) {
		if ids = append(ids, id); found != nil {
			found(id)
		}
	}
	done, err := b.Replay(ctx, r.Queue, which, o, func(operator.Done) {})
	if err != nil || done.Done == 0 {
		return done, err
	}
	fmt.Fprintf(a.Err, "%s replayed; seeing for %v what becomes of them\n", plural(done.Done, "canary", "canaries"), r.Watch)
	until := time.Now().Add(r.Watch)
	for pause := time.Second; ; pause = min(2*pause, 10*time.Second) {
		last := time.Until(until) <= pause
		select {
		case <-time.After(min(pause, time.Until(until))):
		case <-ctx.Done():
			return done, context.Cause(ctx)
		}
		fate, err := b.Fate(ctx, r.Queue, ids)
		switch {
		case err != nil:
			return done, err
		case fate.Failed()*10 > len(ids):
			return done, fmt.Errorf("of %s %s", plural(len(ids), "canary", "canaries"), fate.Text(done))
		case last && fate.Consumers == 0:
			return done, fmt.Errorf("nobody consumes %s, so that nothing is known of the canaries", r.Queue)
		case last:
			return done, nil
		}
	}
}

// edited has the body of a dead letter changed, shows the difference, and returns what
// changes it.
func (r *deadReplayCommand) edited(ctx context.Context, a App, b operator.Broker, p picking, which operator.Selection) (func(*operator.Letter) ([]byte, error), error) {
	var bodies [][]byte
	if _, err := b.Letters(ctx, r.Queue, which, func(l *operator.Letter) error {
		bodies = append(bodies, bytes.Clone(l.Body()))
		return nil
	}); err != nil {
		return nil, err
	}
	switch len(bodies) {
	case 0:
		return nil, p.missing()
	case 1:
	default:
		return nil, fmt.Errorf("%d dead letters of %s have the id %s; --edit is for one", len(bodies), r.Queue, printable(r.IDs[0]))
	}
	before := bodies[0]
	after, err := edit(ctx, a, before)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(before, after) {
		return nil, fmt.Errorf("the body was not changed; %w", errNotWanted)
	}
	fmt.Fprint(a.Err, difference(before, after))
	return func(l *operator.Letter) ([]byte, error) {
		if !bytes.Equal(l.Body(), before) {
			return nil, errors.New("its body is not the one that was edited any more")
		}
		return after, nil
	}, nil
}

// edit opens a body in the editor. The editor has none of Warren's variables, which may hold
// secrets.
func edit(ctx context.Context, a App, body []byte) ([]byte, error) {
	editor := os.Getenv("VISUAL")
	if editor == "" {
		editor = os.Getenv("EDITOR")
	}
	if editor == "" {
		return nil, errors.New("no editor is set; say which in EDITOR, such as EDITOR=nano")
	}
	dir, err := os.MkdirTemp("", "warren-edit-") // of this user alone
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "body.json")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", editor+` "$1"`, "sh", path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.In, a.Out, a.Err
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "WARREN_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the editor %s: %w", editor, err)
	}
	after, err := os.ReadFile(path)
	if err == nil && !bytes.HasSuffix(body, []byte("\n")) {
		after = bytes.TrimSuffix(after, []byte("\n")) // which editors add
	}
	return after, err
}

// difference shows what was changed.
func difference(before, after []byte) string {
	_, removed, added, _ := legible.Difference(legible.Lines(string(before)), legible.Lines(string(after)))
	var out strings.Builder
	for _, line := range removed {
		out.WriteString("- " + line + "\n")
	}
	for _, line := range added {
		out.WriteString("+ " + line + "\n")
	}
	return out.String()
}
