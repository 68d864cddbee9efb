package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/warrenmq/warren/consumer/operator"
)

type deadExportCommand struct {
	letters
	File string `placeholder:"PATH" help:"A file to write, which must not exist; without it, standard output."`
}

// Run writes them down. They stay where they are.
func (e *deadExportCommand) Run(ctx context.Context, a App) (err error) {
	which, err := e.selection()
	if err != nil {
		return err
	}
	b, err := a.operator()
	if err != nil {
		return err
	}
	out := a.Out
	if e.File != "" {
		file, err := os.OpenFile(e.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("--file: %w", err)
		}
		defer func() { err = errors.Join(err, file.Sync(), file.Close()) }()
		out = file
	}
	buffered := bufio.NewWriter(out)
	looked, err := b.Letters(ctx, e.Queue, which, func(l *operator.Letter) error {
		line, err := l.Line()
		if err == nil {
			_, err = buffered.Write(append(line, '\n'))
		}
		return err
	})
	if err = errors.Join(err, buffered.Flush()); err != nil {
		return fmt.Errorf("dead letters of %s not exported: %w", e.Queue, err)
	}
	a.warnOfLimit(e.Queue, looked)
	fmt.Fprintf(a.Err, "exported %s of %s\n", plural(looked.Matched, "dead letter", "dead letters"), e.Queue)
	return nil
}

type deadImportCommand struct {
	Queue string `arg:"" help:"The work queue whose dead letters they become."`
	File  string `arg:"" optional:"" help:"The file, an export or an archive; without it, standard input, which takes --yes."`
	acting
}

// Run puts them into the dead letters.
func (i *deadImportCommand) Run(ctx context.Context, a App) error {
	in, err := opened(i.File, a.In)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if i.File != "" && (!i.Yes || i.DryRun) {
		n, err := operator.Lines(in, func(operator.Line) error { return nil })
		if err != nil && !errors.Is(err, operator.ErrUnfinished) {
			return fmt.Errorf("%s: %w; nothing was imported", i.File, err)
		}
		if err != nil {
			fmt.Fprintf(a.Err, "%s: %s: %v\n", a.Name, i.File, err)
		}
		if on, err := i.proceed(a, fmt.Sprintf("import %s into %s.dead", plural(n, "message", "messages"), i.Queue)); !on {
			return err
		}
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("%s: %w", i.File, err)
		}
	} else if !i.Yes || i.DryRun {
		return errors.New("standard input can be read only once: say --yes, or name a file")
	}
	b, err := a.operator()
	if err != nil {
		return err
	}
	n := 0
	err = b.PublishLines(ctx, in, operator.LettersOf(i.Queue), func(string) error { n++; return nil })
	fmt.Fprintf(a.Out, "imported %s into %s.dead\n", plural(n, "message", "messages"), i.Queue)
	return partly(n, err)
}

// partly is the error of an act that stopped after n messages.
func partly(n int, err error) error {
	if err != nil && n > 0 {
		return &Partial{fmt.Sprintf("%v; %s done", err, plural(n, "message is", "messages are"))}
	}
	return err
}

// A source can be read, and again from its beginning if it is a file.
type source interface {
	io.ReadCloser
	io.Seeker
}

// opened opens a file, or standard input if there is no name.
func opened(path string, in io.Reader) (source, error) {
	if path == "" {
		return onlyOnce{in}, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return file, nil
}

// onlyOnce is what cannot be read again.
type onlyOnce struct{ io.Reader }

func (onlyOnce) Close() error                   { return nil }
func (onlyOnce) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }
