// Package command has deliveries worked by a program, written in any language: a process
// for each (MODE=spawn), or processes that stay, and speak a line of JSON each way
// (MODE=pool). docs/handlers.md has both; what follows is spawn, and pool is in pool.go.
//
// The program finds the body on its standard input, and the facts about the message
// in its environment, which docs/handlers.md lists. Beside these there are PATH and the
// variables of ENV: nothing of the daemon's environment gets through.
//
// What it exits with is the verdict:
//
//	0                     success
//	65 (EX_DATAERR)       the message is dead-lettered
//	69 (EX_UNAVAILABLE)   the message is tried again later, and no attempt is counted
//	75 (EX_TEMPFAIL), any
//	other, or a signal    the message is tried again later
//
// Its standard output is the result, for a message with reply-to and for whoever asks
// for the message's state; if there is neither, it goes nowhere. One of more than 1 MiB
// is left out. Its standard error goes to the log, a line each; the last 2 KiB become
// part of the error. A line such as
//
//	warren:progress 40 rendering page 3
//
// is not logged, but says how far the work is, in percent, to whoever asks.
//
// It runs in a process group of its own. When the attempt's time is up, the whole
// group gets SIGTERM and 500 ms later SIGKILL; and when the program ends, whatever
// it started and left in its group is killed. An exit status after SIGTERM does not
// count, not even 0: who was told to stop has not finished.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-shellwords"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/result"
	"github.com/warrenmq/warren/processors/registry"
)

// searchPath is the PATH of the programs, where COMMAND is looked up, too: what it
// finds must not depend on who starts the daemon.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Exit statuses of sysexits.h that mean more than a failure.
const (
	exDataErr     = 65 // EX_DATAERR: the message is hopeless
	exUnavailable = 69 // EX_UNAVAILABLE: what the program depends on is down
)

// Config is what a command processor is made from.
type Config struct {
	// Command is the program and its arguments, split into words as a shell does,
	// quotes included, but without a shell: nothing is expanded, piped or redirected.
	// A program without a slash is looked up in /usr/local/sbin, /usr/local/bin,
	// /usr/sbin, /usr/bin, /sbin and /bin.
	Command string `envconfig:"COMMAND" required:"true" example:"/bin/cat" desc:"The program to run for each delivery, with its arguments, quoted as for a shell; the body is its standard input."`
	// Mode is spawn, a process for each delivery, or pool, as many as deliveries are
	// processed at once, which stay.
	Mode string `envconfig:"MODE" default:"spawn" desc:"How the program is run: spawn, a process for each delivery; or pool, CONCURRENCY processes that stay and are given one delivery after the other, a line of JSON each."`
	// User is whom to run it as, with the user's groups. That takes a daemon that
	// runs as root. Empty means as the daemon.
	User string `envconfig:"USER" desc:"The user to run the program as, which takes a daemon that runs as root; not set, the daemon's own."`
	// Env holds variables for the program, one NAME=value a line, as in a file for
	// systemd's EnvironmentFile: a value is the rest of the line, or in quotes, which may
	// go on over several lines; in double quotes, \", \\, \$ and \` stand for the
	// character. Lines that are empty or begin with # or ; are left out.
	Env string `envconfig:"ENV" secret:"true" desc:"Variables for the program, one NAME=value a line; ENV_FILE=/path reads them from a file such as systemd's EnvironmentFile."`
}

// Validate looks for the program and the user, but starts nothing. The error names
// every fault of c.
func (c *Config) Validate(registry.Queue) error {
	_, err := c.program()
	return err
}

// Open returns the processor of a queue. It starts nothing: the children of a pool start
// when they are first needed.
func (c *Config) Open(q registry.Queue, log *slog.Logger) (consumer.Processor, error) {
	p, err := c.program()
	switch {
	case err != nil:
		return nil, err
	case c.Mode == "pool":
		return newPool(*p, q.Name, q.Concurrency, log), nil
	}
	return &processor{*p}, nil
}

func (c *Config) program() (*program, error) {
	p := program{killAfter: defaultKillAfter}
	var faults [4]error
	p.args, p.path, faults[0] = parseCommand(c.Command)
	if c.Mode != "spawn" && c.Mode != "pool" {
		faults[1] = fmt.Errorf("MODE is %q; it must be spawn or pool", c.Mode)
	}
	if c.User != "" {
		p.credential, faults[2] = credentialOf(c.User)
	}
	p.env, faults[3] = parseEnv(c.Env)
	if err := errors.Join(faults[:]...); err != nil {
		return nil, err
	}
	return &p, nil
}

// parseCommand returns the words of a command, and the file that the first names.
func parseCommand(command string) (args []string, path string, err error) {
	parser := shellwords.NewParser()
	args, err = parser.Parse(command)
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("COMMAND cannot be split into words: %w; close every quote and parenthesis", err)
	case parser.Position >= 0: // of the first operator; the parser leaves the rest unread
		return nil, "", errors.New("COMMAND has an unquoted ; & | < or >, but is run without a shell; quote it, or run sh -c '...'")
	case len(command) > maxVariableBytes:
		return nil, "", fmt.Errorf("COMMAND has %d bytes, but may have %d; have the program read a file", len(command), maxVariableBytes)
	case len(args) == 0 || args[0] == "":
		return nil, "", errors.New("COMMAND is not set: set it to a program and its arguments, such as /usr/local/bin/handle-order --fast")
	}
	path, err = lookPath(args[0])
	return args, path, err
}

func lookPath(program string) (string, error) {
	if strings.Contains(program, "/") {
		path, err := exec.LookPath(program)
		if err != nil {
			return "", fmt.Errorf("COMMAND: %w; install the program there, and make it executable with chmod +x", err)
		}
		return filepath.Abs(path)
	}
	for _, dir := range filepath.SplitList(searchPath) {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("COMMAND: no executable %s in %s; install it there, or write its whole path", program, searchPath)
}

// A program is what is run, and how.
type program struct {
	path       string
	args       []string
	env        []string            // NAME=value, the queue's own
	credential *syscall.Credential // nil: the daemon's own
	killAfter  time.Duration       // defaultKillAfter, but in tests
}

// A processor is the program in mode spawn.
type processor struct{ program }

// Process runs the program on d. It blocks until the program has ended, and what it
// left in its group with it: at the latest about a second after ctx has ended.
func (p *processor) Process(ctx context.Context, d consumer.Delivery, scope *consumer.Scope) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	output := new(answer)
	var stdout io.Writer
	if scope.WantsResult() {
		stdout = output
	}
	stderr := &logLines{log: scope.Logger(), progress: scope.Progress}
	cmd, err := p.command(ctx, &d, stdout, stderr)
	if err != nil {
		return err
	}
	exited, err := start(cmd)
	if err != nil {
		return startError(err)
	}
	interrupted, err := p.wait(ctx, cmd, exited)
	stderr.end()

	status := cmd.ProcessState
	if status == nil {
		return fmt.Errorf("wait for %s: %w", p.path, err)
	}
	failure := stderr.explain(status.String())
	switch {
	case interrupted != nil:
		return fmt.Errorf("%w: %s", interrupted, failure)
	case status.ExitCode() == exDataErr:
		return consumer.Permanent(errors.New(failure))
	case status.ExitCode() == exUnavailable:
		return consumer.Unavailable(errors.New(failure))
	case !status.Success():
		return errors.New(failure)
	case errors.Is(err, exec.ErrWaitDelay):
		scope.Logger().Warn("the command left a process outside of its group that holds its output open, which is not read any further", "path", p.path)
	case err != nil:
		return fmt.Errorf("input or output of %s: %w", p.path, err)
	}
	if output.tooLong {
		scope.Logger().Warn("the result is too long, it is left out", "limit_bytes", result.MaxBytes)
		scope.SetResult(result.TooLong())
		return nil
	}
	scope.SetResult(consumer.Result{Body: output.body})
	return nil
}
