package mail

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/warrenmq/warren/processors/internal/disk"
)

// A maildir is a folder of mails, one file each, that any mail reader understands.
type maildir struct{ dir string }

// newMaildir returns the Maildir at dir, made if absent.
func newMaildir(dir string) (*maildir, error) {
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, unusableMaildir(err)
		}
	}
	return &maildir{dir}, nil
}

func unusableMaildir(err error) error {
	return fmt.Errorf("MAILDIR: %w: name a folder that Warren may write to", err)
}

// send writes m, so that it is on the disk when send returns. The file is named
// after the Message-ID: until a mail reader has moved it away, a repeat replaces
// the mail and does not double it.
func (d *maildir) send(ctx context.Context, m *mail) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := d.write(m); err != nil {
		return disk.Verdict(fmt.Errorf("write to MAILDIR: %w", err))
	}
	return nil
}

func (d *maildir) write(m *mail) error {
	id, _, _ := strings.Cut(m.id, "@")
	name := id + ".warren"
	f, err := os.CreateTemp(filepath.Join(d.dir, "tmp"), name+".*")
	if err != nil {
		return err
	}
	err = errors.Join(writeDelivered(f, m), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(d.dir, "new", name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return disk.SyncDir(filepath.Join(d.dir, "new"))
}

// writeDelivered writes m as a server leaves it in a mailbox: the envelope, Bcc
// recipients included, in lines before the header, and lines that end with LF.
func writeDelivered(f io.Writer, m *mail) error {
	w := bufio.NewWriterSize(f, 64<<10)
	fmt.Fprintf(w, "Return-Path: <%s>\n", m.from)
	for _, r := range m.recipients {
		fmt.Fprintf(w, "Delivered-To: %s\n", r)
	}
	if _, err := m.WriteTo(unixLines{w}); err != nil {
		return err
	}
	return w.Flush() // with the first error of all that was written
}

// unixLines drops CR, which in a mail stands at the end of a line only.
type unixLines struct{ w io.Writer }

func (u unixLines) Write(p []byte) (int, error) {
	for text := range bytes.SplitSeq(p, []byte("\r")) {
		if _, err := u.w.Write(text); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Close does nothing: a Maildir keeps nothing open.
func (d *maildir) Close() error { return nil }
