package rabbittest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// A process is a child that the kernel kills when this process ends.
type process struct {
	pid    int
	exited chan struct{} // closed once the child has ended and was waited for
}

// startProcess starts cmd in a process group of its own, so that a Ctrl-C on the
// terminal reaches only us.
func startProcess(cmd *exec.Cmd) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	p := &process{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel takes the end of the thread that forked for the end of the
		// parent, so that thread must last as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its own log
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// running tells whether the child has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// signal sends s to the child, if it is running.
func (p *process) signal(s syscall.Signal) {
	if p.running() {
		_ = syscall.Kill(p.pid, s)
	}
}

// freeze stops the child, and blocks until each of its threads has: on a busy machine, some go
// on for a while after the signal.
func (p *process) freeze() {
	p.signal(syscall.SIGSTOP)
	for p.running() && !p.frozen() {
		time.Sleep(time.Millisecond)
	}
}

func (p *process) frozen() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.pid))
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		// The state follows the name, which is in brackets.
		if err == nil && !bytes.HasPrefix(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" T")) {
			return false
		}
	}
	return len(threads) > 0
}

// kill ends the child and blocks until it has ended.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}
