package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/operator"
)

type deadDiscardCommand struct {
	chosen
	Archive   string `placeholder:"PATH" help:"The file to put them into first, which must not exist; without it, QUEUE.dead-TIME.jsonl in this folder."`
	NoArchive bool   `help:"Keep no copy."`
}

// Run takes them away.
func (d *deadDiscardCommand) Run(ctx context.Context, a App) error {
	found := make(map[string]bool)
	which, err := d.selection(found)
	if err == nil && d.Archive != "" && d.NoArchive {
		err = errors.New("--archive and --no-archive are both given; leave one out")
	}
	if err != nil {
		return err
	}
	b, err := a.operator()
	if err != nil {
		return err
	}
	path, how := d.Archive, ", keeping no copy"
	if path == "" {
		path = archiveName(d.Queue+".dead", time.Now())
	}
	if !d.NoArchive {
		how = ", into " + path
	}
	if on, err := d.agree(ctx, a, b, which, "discard", how); !on {
		return err
	}
	clear(found)
	show, end := a.progress("discarded")
	done, err := archived(path, d.NoArchive, func(archive operator.Archive) (operator.Done, error) {
		return b.Discard(ctx, d.Queue, which, archive, show)
	})
	end()
	if done.Done > 0 && !d.NoArchive {
		fmt.Fprintf(a.Out, "%s has them; %s dead import %s %s puts them back\n", path, a.Name, d.Queue, path)
	}
	return d.outcome(a, "discarded", done, found, err)
}

// archiveName names an archive of a queue, which may have any name.
func archiveName(queue string, now time.Time) string {
	safe := strings.Map(func(r rune) rune {
		if r == '/' || isHidden(r) {
			return '_'
		}
		return r
	}, queue)
	return "./" + safe + "-" + now.Format("20060102-150405") + ".jsonl"
}

// archived has discard write into a new file, that is taken away again if nothing was
// discarded.
func archived(path string, none bool, discard func(operator.Archive) (operator.Done, error)) (operator.Done, error) {
	if none {
		return discard(nil)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return operator.Done{}, fmt.Errorf("the archive: %w", err)
	}
	done, err := discard(file)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if info, statErr := os.Stat(path); statErr == nil && info.Size() == 0 {
		_ = os.Remove(path)
	}
	return done, err
}
