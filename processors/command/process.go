package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/consumer"
)

// defaultKillAfter is how long a group has to end after SIGTERM, and how long output is
// waited for that somebody outside of an ended group holds open.
const defaultKillAfter = 500 * time.Millisecond

// command prepares one run of the program.
func (p *processor) command(ctx context.Context, d *consumer.Delivery, stdout, stderr io.Writer) (*exec.Cmd, error) {
	env, err := environment(ctx, p.env, d)
	if err != nil {
		return nil, consumer.Undecodable(err)
	}
	return &exec.Cmd{
		Path:        p.path,
		Args:        p.args,
		Env:         env,
		Stdin:       bytes.NewReader(d.Body),
		Stdout:      stdout, // nil: /dev/null
		Stderr:      stderr,
		SysProcAttr: p.attributes(),
		WaitDelay:   p.killAfter,
	}, nil
}

// attributes are those of a process, which leads a group of its own. It need not look at its
// standard input, which a killed daemon closes, so that the kernel ends it with the daemon.
func (p *program) attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: p.credential, Pdeathsig: syscall.SIGKILL}
}

// start starts the process of cmd. Exited is closed when it has ended.
//
// The kernel ends it not with the daemon alone, but with the thread that has started it (see
// Pdeathsig). That is the one which waits for it, and is nobody else's until then.
func start(cmd *exec.Cmd) (exited <-chan struct{}, err error) {
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err != nil {
			started <- err
			return
		}
		pid := cmd.Process.Pid
		started <- nil
		awaitExit(pid)
	}()
	return ended, <-started
}

// wait blocks until the process of cmd has ended, together with its group; exited is what
// start returned. It ends both when ctx ends, and returns the cause in interrupted; err is
// that of cmd.Wait.
//
// exec.CommandContext would do neither: it kills one process, and kills by a number
// that may have become another's.
func (p *program) wait(ctx context.Context, cmd *exec.Cmd, exited <-chan struct{}) (interrupted, err error) {
	group := cmd.Process.Pid
	select {
	case <-exited:
	case <-ctx.Done():
		interrupted = context.Cause(ctx)
		if !errors.Is(interrupted, errUseless) {
			kill(group, syscall.SIGTERM)
			// Also when the leader ends at once: a shell does, but what it has called may
			// have to clean up.
			time.Sleep(p.killAfter)
		}
	}
	kill(group, syscall.SIGKILL)
	<-exited
	return interrupted, cmd.Wait()
}

// awaitExit blocks until the child has ended, and leaves it a zombie: until it is
// reaped, nobody else can have its number, nor that of its group.
func awaitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// kill signals all of a group whose leader has not been reaped. There is no one else
// to tell if it cannot: what a member with other rights does is its own affair.
func kill(group int, signal syscall.Signal) { _ = syscall.Kill(-group, signal) }

// remedies are for what can keep a program from being started that was there
// when the daemon started.
var remedies = map[syscall.Errno]string{
	syscall.ENOENT:  "put back the program, or the interpreter that its first line names",
	syscall.EACCES:  "make the program executable and every folder above it accessible to the user it runs as",
	syscall.EPERM:   "the daemon may not become that user; run it as root, or leave USER unset",
	syscall.ENOEXEC: "a script needs a first line such as #!/bin/sh",
	syscall.ETXTBSY: "the program is being written; put a new version in its place with mv",
	syscall.EAGAIN:  "there are too many processes; raise TasksMax and LimitNPROC of the unit, or lower CONCURRENCY",
	syscall.ENOMEM:  "memory is short; raise MemoryMax of the unit, or lower CONCURRENCY",
	syscall.EMFILE:  "too many files are open; raise LimitNOFILE of the unit, or lower CONCURRENCY",
	syscall.ENOSPC:  "free some space on that disk",
	syscall.ENFILE:  "too many files are open on this machine; raise fs.file-max",
}

// startError says why the program could not be started. That is the machine's fault, or
// that of whoever has changed it, and no other message would fare better, unless this
// one has too much for an environment.
func startError(err error) error {
	number, _ := errors.AsType[syscall.Errno](err)
	if number == syscall.E2BIG {
		return consumer.Undecodable(fmt.Errorf("%w; the environment has more than the system gives to a program, send in the body what is long, not in the headers", err))
	}
	if remedy := remedies[number]; remedy != "" {
		err = fmt.Errorf("%w; %s", err, remedy)
	}
	return consumer.Unavailable(err)
}
