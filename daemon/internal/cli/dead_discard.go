package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/daemon/internal/legible"
)

type deadDiscardCommand struct {
	chosen
	Archive   string `placeholder:"PATH" help:"The file to put them into first, which must not exist; without it, QUEUE.dead-TIME.jsonl in this folder."`
	NoArchive bool   `help:"Keep no copy."`
}

// Run takes them away.
func (d *deadDiscardCommand) Run(ctx context.Context, a App) error {
	p, which, err := d.pick()
	if err != nil {
		return err
	}
	path, how, err := archiveOf(d.Archive, d.NoArchive, d.Queue+".dead", time.Now())
	if err != nil {
		return err
	}
	b, err := a.operator()
	if err != nil {
		return err
	}
	on, err := p.agree(a, "discard", how, func() (operator.Looked, map[string]int, error) { return a.countLetters(ctx, b, d.Queue, which) })
	if !on {
		return err
	}
	show, end := a.progress("discarded")
	done, err := archived(path, d.NoArchive, func(archive operator.Archive) (operator.Done, error) {
		return b.Discard(ctx, d.Queue, which, archive, show)
	})
	end()
	if done.Done > 0 && !d.NoArchive {
		fmt.Fprintf(a.Out, "%s has them; %s dead import %s %s puts them back\n", path, a.Name, d.Queue, path)
	}
	return p.outcome(a, "discarded", done, err)
}

// archiveOf is the file that an archive is in, and what is said of it.
func archiveOf(path string, none bool, what string, now time.Time) (file, how string, err error) {
	switch {
	case path != "" && none:
		return "", "", errors.New("--archive and --no-archive are both given; leave one out")
	case none:
		return "", ", keeping no copy", nil
	case path == "":
		path = archiveName(what, now)
	}
	return path, ", into " + path, nil
}

// archiveName names an archive of a queue, which may have any name.
func archiveName(queue string, now time.Time) string {
	safe := strings.Map(func(r rune) rune {
		if r == '/' || legible.IsHidden(r) {
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
