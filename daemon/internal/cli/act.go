package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// An acting command changes something: it says what it would do before it does it.
type acting struct {
	DryRun bool `help:"Only say what would be done."`
	Yes    bool `short:"y" help:"Do not ask; without a terminal to ask on, it has to be given."`
}

// proceed says what would be done, and tells whether that is wanted.
func (f acting) proceed(a App, what string) (bool, error) {
	if f.DryRun {
		_, err := fmt.Fprintln(a.Out, what)
		return false, err
	}
	if f.Yes {
		return true, nil
	}
	if !onTerminal(a.In) {
		return false, fmt.Errorf("%s: there is no terminal to ask on; say --yes, or --dry-run", what)
	}
	fmt.Fprintf(a.Err, "%s. Go on? [y/N] ", what)
	line, _ := bufio.NewReader(io.LimitReader(a.In, 100)).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return false, errNotWanted
	}
	return true, nil
}

var errNotWanted = errors.New("nothing was done")

// onTerminal tells whether a person is at the other end.
func onTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// A Partial is an act that was done, but not by or to all that it was meant for.
type Partial struct{ Text string }

func (p *Partial) Error() string { return p.Text }

// ExitStatus is what the process ends with.
func (*Partial) ExitStatus() int { return 3 }

// plural is n of what, of which there is one or several.
func plural(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, several)
}
