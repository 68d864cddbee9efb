package email

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
		return fmt.Errorf("write to MAILDIR: %w", err)
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
	_, err = f.Write(asDelivered(m))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(d.dir, "new", name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Join(d.dir, "new"))
}

// asDelivered is m as a server leaves it in a mailbox: the envelope, Bcc recipients
// included, in lines before the header, and lines that end with LF.
func asDelivered(m *mail) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Return-Path: <%s>\n", m.from)
	for _, r := range m.recipients {
		fmt.Fprintf(&b, "Delivered-To: %s\n", r)
	}
	b.Write(bytes.ReplaceAll(m.content, []byte("\r\n"), []byte("\n")))
	return b.Bytes()
}

// syncDir makes a rename in dir last beyond a power failure.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close does nothing: a Maildir keeps nothing open.
func (d *maildir) Close() error { return nil }
