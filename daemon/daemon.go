// Package daemon is the whole program: its configuration, its subcommands, the daemon
// itself with its telemetry and admin server, what systemd is told, and the signals. What
// it does with deliveries is for the caller to say, who may bring processors of their own:
//
//	package main
//
//	func main() {
//		daemon.Main(processors.Standard().With("resize", func() processors.Config { return new(resize.Config) }))
//	}
//
// Their variables are read, checked, printed, documented and completed as those of the
// processors that come with Warren. The program is called as its main package is, and has
// the version of its main module. Both can be set with -ldflags, in package
// github.com/warrenmq/warren/daemon: -X .../daemon.version=v1.2.3, -X .../daemon.name=resizer.
package daemon

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/daemon/internal/cli"
	"github.com/warrenmq/warren/daemon/internal/settings"
	"github.com/warrenmq/warren/processors"
	"github.com/warrenmq/warren/telemetry"
)

// name and version are for -ldflags -X; without them, what the Go toolchain has noted in
// the program counts.
var name, version string

// gcPercent is how much the heap may grow between collections. What is live of it is a
// few megabytes, so that memory is cheap and collecting it all the time is not.
const gcPercent = 150

// Main is the program. It ends the process: with the status 0 after a clean end, with 1 if
// the arguments, the configuration or the start is at fault, with 2 if work was abandoned
// at the shutdown timeout, and with 3 if a command has done what it was to do in part. The first SIGTERM or SIGINT stops the daemon; a
// second one ends the process at once, as that signal does.
func Main(set processors.Set) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2) // both, should they come before the first is noticed
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go heed(signals, stop, die)

	info, _ := debug.ReadBuildInfo()
	app := cli.App{
		Program: settings.Program{Name: nameOf(info), Version: versionOf(info), Processors: set},
		In:      os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Run: run,
	}
	err := hide()
	if err == nil {
		err = app.Execute(ctx, os.Args[1:])
	}
	if err != nil {
		telemetry.WriteError(os.Stderr, app.Name+": "+err.Error())
	}
	os.Exit(exitStatus(err))
}

// heed has the first signal stop the program, and the second end it. It never returns
// before that.
func heed(signals <-chan os.Signal, stop func(), end func(os.Signal)) {
	<-signals
	stop()
	end(<-signals)
}

// die ends the process as the signal would have, had nobody asked for it.
func die(s os.Signal) {
	signal.Reset(s)
	number := s.(syscall.Signal)
	_ = syscall.Kill(os.Getpid(), number)
	// Not reached, unless the process was started with the signal ignored, as a shell does
	// with SIGINT for what it runs in the background.
	time.Sleep(time.Second)
	os.Exit(128 + int(number))
}

func exitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, consumer.ErrAbandoned):
		return 2
	}
	if s, ok := errors.AsType[interface {
		error
		ExitStatus() int
	}](err); ok {
		return s.ExitStatus()
	}
	return 1
}

// nameOf is what go build calls the program, wherever it has been moved since: its name is
// in messages and traces, and the same on every machine.
func nameOf(info *debug.BuildInfo) string {
	if name != "" {
		return name
	}
	if info != nil && strings.Contains(info.Path, "/") {
		main := strings.TrimSuffix(info.Path, ".test")
		if dir, last := path.Split(main); majorVersion.MatchString(last) {
			main = path.Clean(dir)
		}
		return path.Base(main)
	}
	return filepath.Base(os.Args[0]) // go run main.go has no path
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

func versionOf(info *debug.BuildInfo) string {
	if version != "" {
		return version
	}
	if info != nil && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
