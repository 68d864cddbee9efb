package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A screen is a terminal that is written whole, again and again, without flicker: only
// lines that differ from those there are written.
type screen struct {
	out    io.Writer
	lines  []string
	bold   bool
	before unix.Termios
	in     *os.File
}

const (
	alternate = "\x1b[?1049h\x1b[?25l\x1b[2J" // another screen, no cursor, empty
	usual     = "\x1b[?25h\x1b[?1049l"
)

// openScreen takes over the terminal. Keys come one by one, and a read returns within a
// tenth of a second whether or not one has been pressed; Ctrl-C is a signal as ever.
func openScreen(in, out *os.File) (*screen, error) {
	s := &screen{out: out, in: in, bold: os.Getenv("NO_COLOR") == ""}
	state, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("the terminal: %w", err)
	}
	s.before = *state
	state.Lflag &^= unix.ICANON | unix.ECHO
	state.Cc[unix.VMIN], state.Cc[unix.VTIME] = 0, 1
	if err := unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, state); err != nil {
		return nil, fmt.Errorf("the terminal: %w", err)
	}
	_, err = io.WriteString(out, alternate)
	return s, err
}

// close gives the terminal back as it was.
func (s *screen) close() {
	_, _ = io.WriteString(s.out, usual)
	_ = unix.IoctlSetTermios(int(s.in.Fd()), unix.TCSETS, &s.before)
}

// size is how many characters and lines the terminal has.
func (s *screen) size() (width, height int) {
	f, ok := s.out.(*os.File)
	if !ok {
		return defaultWidth, defaultHeight
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 || size.Row == 0 {
		return defaultWidth, defaultHeight
	}
	return int(size.Col), int(size.Row)
}

const defaultHeight = 24

// show has the screen consist of these lines. Those that begin with a tab are titles.
func (s *screen) show(lines []string, width, height int) error {
	lines = lines[:min(len(lines), height)]
	var b bytes.Buffer
	for i, line := range lines {
		if i < len(s.lines) && s.lines[i] == line {
			continue
		}
		text, title := strings.CutPrefix(line, "\t")
		text = fit(text, width)
		if title && s.bold {
			text = "\x1b[1m" + text + "\x1b[0m"
		}
		fmt.Fprintf(&b, "\x1b[%d;1H%s\x1b[K", i+1, text)
	}
	if len(lines) < len(s.lines) {
		fmt.Fprintf(&b, "\x1b[%d;1H\x1b[J", len(lines)+1)
	}
	s.lines = append(s.lines[:0], lines...)
	_, err := s.out.Write(b.Bytes())
	return err
}

// forget has everything written anew, for the terminal has changed.
func (s *screen) forget() error {
	s.lines = nil
	_, err := io.WriteString(s.out, "\x1b[2J")
	return err
}
