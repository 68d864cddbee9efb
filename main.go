// Warren is a worker daemon for RabbitMQ. It takes deliveries from queues, has a
// processor do the work of each, and acknowledges only after success; what fails is
// retried with exponential backoff, and then kept in a dead-letter queue.
//
// It is configured by environment variables, which config.example.env lists.
// The exit status is 0 after a clean end, 1 if the arguments, the configuration or
// the start is at fault, and 2 if work was abandoned at the shutdown timeout.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/telemetry"
)

// version is set with -ldflags "-X main.version=v1.2.3"; if it is not, what the Go
// toolchain found out counts.
var version string

// commands are the subcommands; without one, it is run.
type commands struct {
	Run        runCommand        `cmd:"" default:"1" help:"Work the queues that WARREN_QUEUES names, until SIGTERM or SIGINT (the default)."`
	Publish    publishCommand    `cmd:"" help:"Publish a message, and wait until the broker has confirmed that a queue has it."`
	Delayed    delayedCommand    `cmd:"" help:"See what waits in the broker."`
	Check      checkCommand      `cmd:"" help:"Check the configuration and, without changing anything, the nodes and queues that it names."`
	Config     configCommand     `cmd:"" help:"Print every variable with its value, where that comes from, and what it means; secrets are masked."`
	Migrate    migrateCommand    `cmd:"" help:"Create or update Warren's own tables in the database, and end."`
	Version    versionCommand    `cmd:"" help:"Print the version."`
	Completion completionCommand `cmd:"" help:"Print a script that has a shell complete what follows warren."`
	Complete   completeCommand   `cmd:"" hidden:"" help:"Print what a word may become, for these scripts."`
	Man        manCommand        `cmd:"" hidden:"" help:"Print a page of the manual, for the packages."`
}

// streams are the standard streams of the process.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// gcPercent is how much the heap may grow between collections. What is live of it is a
// few megabytes, so that memory is cheap and collecting it all the time is not.
const gcPercent = 200

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	err := run(context.Background(), os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	if err != nil {
		telemetry.WriteError(os.Stderr, "warren: "+err.Error())
	}
	os.Exit(exitStatus(err))
}

func exitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, consumer.ErrAbandoned):
		return 2
	}
	return 1
}

// run is the whole program. It returns once every goroutine it started has ended.
func run(ctx context.Context, args []string, std streams) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal then kills the process at once

	parser, err := kong.New(new(commands),
		kong.Name("warren"),
		kong.Description("A worker daemon for RabbitMQ. It is configured by environment variables: see config.example.env."),
		kong.Writers(std.out, std.err),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(std),
	)
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if err != nil {
		return fmt.Errorf("%w; warren --help lists what there is", err)
	}
	return command.Run()
}

type versionCommand struct{}

// Run prints the version.
func (versionCommand) Run(std streams) error {
	_, err := fmt.Fprintf(std.out, "warren %s (%s, %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
