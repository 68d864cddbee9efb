// Package cli is the command line: a file for each subcommand, but for run, which it is
// given.
package cli

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/alecthomas/kong"

	"github.com/warrenmq/warren/daemon/internal/settings"
)

// An App is a program with its command line.
type App struct {
	settings.Program
	In       io.Reader
	Out, Err io.Writer
	// Run is the subcommand run, the daemon.
	Run func(ctx context.Context, p settings.Program, stderr io.Writer) error
}

// commands are the subcommands; without one, it is run.
type commands struct {
	Run        runCommand        `cmd:"" default:"1" help:"Work the queues that WARREN_QUEUES names, until SIGTERM or SIGINT (the default)."`
	Publish    publishCommand    `cmd:"" help:"Publish a message, and wait until the broker has confirmed that a queue has it."`
	Dead       deadCommand       `cmd:"" help:"See dead letters, put them back, or take them away."`
	Waiting    waitingCommand    `cmd:"" aliases:"delayed" help:"See what waits in the broker, and have it sooner or not at all."`
	Ps         psCommand         `cmd:"" help:"List the daemons that consume in this virtual host, wherever they run, and what stands out."`
	Top        topCommand        `cmd:"" help:"Watch the daemons: rates of each queue, what is in flight, what fails."`
	Pause      pauseCommand      `cmd:"" help:"Have no daemon take messages from a queue, also those that start later, until it is resumed."`
	Resume     resumeCommand     `cmd:"" help:"Have a paused queue worked again."`
	Quiet      quietCommand      `cmd:"" help:"Have daemons finish what is in flight, take no more, and stay: before a deploy."`
	Work       workCommand       `cmd:"" help:"Have daemons that were told to be quiet take messages again."`
	Cancel     cancelCommand     `cmd:"" help:"End the attempt that is under way at a message, and dead-letter that."`
	Level      levelCommand      `cmd:"" help:"Have daemons log more or less for a while."`
	Check      checkCommand      `cmd:"" help:"Check the configuration and, without changing anything, the nodes, queues and daemons, and say what is wrong, why it matters, and what cures it."`
	Config     configCommand     `cmd:"" help:"Print every variable with its value, where that comes from, and what it means; secrets are masked."`
	Migrate    migrateCommand    `cmd:"" help:"Create or update Warren's own tables in the database, and end."`
	Version    versionCommand    `cmd:"" help:"Print the version."`
	Completion completionCommand `cmd:"" help:"Print a script that has a shell complete what follows ${program}."`
	Complete   completeCommand   `cmd:"" hidden:"" help:"Print what a word may become, for these scripts."`
	Man        manCommand        `cmd:"" hidden:"" help:"Print a page of the manual, for the packages."`
}

// Execute parses the arguments and runs the subcommand that they name.
func (a App) Execute(ctx context.Context, args []string) error {
	parser, err := a.parser(new(commands))
	if err != nil {
		return err
	}
	parser.Stdout, parser.Stderr = a.Out, a.Err
	command, err := parser.Parse(args)
	if err != nil {
		return fmt.Errorf("%w; %s --help lists what there is", err, a.Name)
	}
	command.BindTo(ctx, (*context.Context)(nil))
	command.Bind(a)
	return command.Run()
}

func (a App) parser(grammar *commands) (*kong.Kong, error) {
	return kong.New(grammar,
		kong.Name(a.Name),
		kong.Description("A worker daemon for RabbitMQ. It is configured by environment variables: "+a.Name+" config --example lists them."),
		kong.Vars{"program": a.Name},
	)
}

type runCommand struct{}

// Run is the daemon.
func (runCommand) Run(ctx context.Context, a App) error { return a.Run(ctx, a.Program, a.Err) }

type versionCommand struct{}

// Run prints the version.
func (versionCommand) Run(a App) error {
	_, err := fmt.Fprintf(a.Out, "%s %s (%s, %s/%s)\n", a.Name, a.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
