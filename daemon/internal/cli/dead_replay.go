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

	"github.com/warrenmq/warren/consumer/operator"
)

type deadReplayCommand struct {
	chosen
	To   string  `placeholder:"QUEUE" help:"Put them into this queue, not into that which each came from."`
	Rate float64 `placeholder:"N" help:"So many a second at most; without it, as fast as the broker takes them."`
	Edit bool    `help:"Change the body of one dead letter in $EDITOR first; shows the difference."`
}

// Run puts them back.
func (r *deadReplayCommand) Run(ctx context.Context, a App) error {
	p, which, err := r.pick()
	if err == nil && r.Rate < 0 {
		err = fmt.Errorf("--rate is %g; it must be positive", r.Rate)
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
	show, end := a.progress("replayed")
	done, err := b.Replay(ctx, r.Queue, which, options, show)
	end()
	return p.outcome(a, "replayed", done, err)
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

// difference shows what was changed: the lines between what both begin and end with.
func difference(before, after []byte) string {
	a, b := strings.Split(visibleLines(string(before)), "\n"), strings.Split(visibleLines(string(after)), "\n")
	begin := 0
	for begin < min(len(a), len(b)) && a[begin] == b[begin] {
		begin++
	}
	end := 0
	for end < min(len(a), len(b))-begin && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	var out strings.Builder
	for _, line := range a[begin : len(a)-end] {
		out.WriteString("- " + line + "\n")
	}
	for _, line := range b[begin : len(b)-end] {
		out.WriteString("+ " + line + "\n")
	}
	return out.String()
}
