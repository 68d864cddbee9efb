// Package machinetest boots real machines for tests: Debian with systemd as its process 1,
// in a container of systemd-nspawn.
//
//	m := machinetest.Boot(t)
//	m.Run(t, "systemctl", "start", "rabbitmq-server")
//	m.Write(t, "/etc/warren/warren.env", 0o640, "WARREN_QUEUES=emails\n")
//
// A machine has a disk of its own, an overlay of a tree that .ci/machine makes, and a network
// of its own that leads nowhere but to the machines that it is connected with. It needs
// root's rights, and nothing of it is left on the host when the test ends, or when its
// process is killed: its mounts are in a namespace of their own.
//
// What systemd confines services with works in it: namespaces of mounts, users and
// devices, filters of system calls, credentials.
package machinetest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A Machine is one that runs, or that Kill has ended.
type Machine struct {
	name   string
	disk   string // the folder of what differs from the tree
	leader int    // its process 1, as the host sees it
	nspawn *exec.Cmd
	output bytes.Buffer // of nspawn and the console
	ended  chan struct{}
}

// bootTimeout is what a machine may take until services can be started.
const bootTimeout = time.Minute

// Boot boots a machine, and ends it with the test. It returns when services can be
// started; RabbitMQ is not.
func Boot(t testing.TB) *Machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("booting a machine needs root's rights: run sudo make test-systemd")
	}
	// A folder of a test may lie on an overlay itself, which no other can lie upon.
	disk, err := os.MkdirTemp("/var/tmp", "warren-machine-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(disk); err != nil {
			t.Error(err)
		}
	})
	for _, dir := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(disk, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := &Machine{name: filepath.Base(disk), disk: disk}
	t.Cleanup(func() { m.Kill(t) })
	m.Boot(t)
	return m
}

// Boot boots a machine once more that was killed, with the disk that it had.
func (m *Machine) Boot(t testing.TB) {
	t.Helper()
	m.ended = make(chan struct{})
	m.output.Reset()
	// The mount is gone with the last process of its namespace.
	m.nspawn = exec.Command("unshare", "--mount", "sh", "-euc", `
		mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
		exec systemd-nspawn --quiet --directory="$2/root" --machine="$3" --register=no --keep-unit --private-network --console=pipe --boot`,
		"sh", tree(t), m.disk, m.name)
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	m.nspawn.Stdout, m.nspawn.Stderr = &m.output, &m.output
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, bootTimeout, func() bool {
		select {
		case <-m.ended:
			t.Fatalf("the machine has ended while it booted:\n%s", &m.output)
		default:
		}
		m.leader = m.child()
		return m.leader != 0 && m.isUp()
	}, "the machine is up")
}

// start starts nspawn from a thread that lives as long as nspawn does: the end of the
// thread is what Pdeathsig is about.
func (m *Machine) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.nspawn.Start()
		started <- err
		if err == nil {
			_ = m.nspawn.Wait() // it is killed
		}
		close(m.ended)
	}()
	return <-started
}

// child is the machine's process 1; 0 if it is not there yet.
func (m *Machine) child() int {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", m.nspawn.Process.Pid))
	if err != nil {
		return 0
	}
	for field := range strings.FieldsSeq(string(children)) {
		name, err := os.ReadFile("/proc/" + field + "/comm")
		if pid, _ := strconv.Atoi(field); err == nil && strings.TrimSpace(string(name)) == "systemd" {
			return pid
		}
	}
	return 0
}

// isUp tells whether services can be started. Those that are started at boot may need what
// a test has yet to provide.
func (m *Machine) isUp() bool {
	state, _ := m.Try("systemctl", "is-active", "basic.target")
	return state == "active"
}

// Kill ends the machine as a power cut does. One that has ended is left as it is.
func (m *Machine) Kill(t testing.TB) {
	t.Helper()
	if m.nspawn == nil || m.nspawn.Process == nil {
		return
	}
	for _, pid := range []int{m.leader, m.nspawn.Process.Pid} {
		if pid != 0 && !closed(m.ended) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may just have ended
		}
	}
	select {
	case <-m.ended:
	case <-time.After(20 * time.Second):
		t.Errorf("the machine %s has not ended", m.name)
	}
	m.leader = 0
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Command returns a command that runs in the machine as root, its environment as a login
// shell's.
func (m *Machine) Command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(m.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
	cmd.Dir = "/"
	return cmd
}

// Try runs a command in the machine, and returns its standard output without the space
// around it. The error of one that fails has its standard error.
func (m *Machine) Try(args ...string) (string, error) {
	cmd := m.Command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), err
}

// Run runs a command in the machine, as Try does. One that fails fails the test.
func (m *Machine) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := m.Try(args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// Path is where the host finds a file of the machine.
func (m *Machine) Path(path string) string {
	return filepath.Join("/proc", strconv.Itoa(m.leader), "root", path)
}

// Write writes a file of the machine, and makes the folders that it needs.
func (m *Machine) Write(t testing.TB, path string, mode os.FileMode, content string) {
	t.Helper()
	path = m.Path(path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

// Copy copies a file of the host into the machine.
func (m *Machine) Copy(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	m.Write(t, to, mode, string(content))
}

// Read returns what is in a file of the machine; nothing if there is none.
func (m *Machine) Read(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(m.Path(path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(content)
}

// Dial connects from within the machine: 127.0.0.1 is the machine's own.
func (m *Machine) Dial(network, addr string) (net.Conn, error) {
	return within(m, func() (net.Conn, error) { return net.DialTimeout(network, addr, 10*time.Second) })
}

// Listen listens within the machine, until the test ends.
func (m *Machine) Listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	l, err := within(m, func() (net.Listener, error) { return net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// within opens a socket in the machine's network, where it stays wherever it is used.
func within[S any](m *Machine, open func() (S, error)) (S, error) {
	type opened struct {
		socket S
		err    error
	}
	done := make(chan opened)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var o opened
		var network *os.File
		network, o.err = os.Open(fmt.Sprintf("/proc/%d/ns/net", m.leader))
		if o.err == nil {
			o.err = unix.Setns(int(network.Fd()), unix.CLONE_NEWNET)
			_ = network.Close()
		}
		if o.err == nil {
			o.socket, o.err = open()
		}
		done <- o
	}()
	o := <-done
	return o.socket, o.err
}

// Connect lays a cable between two machines, whose addresses are 10.77.0.1 and 10.77.0.2.
func Connect(t testing.TB, first, second *Machine) {
	t.Helper()
	first.Run(t, "ip", "link", "add", "cable", "type", "veth", "peer", "name", "other")
	move := exec.Command("nsenter", "--target", strconv.Itoa(first.leader), "--net", "--", "ip", "link", "set", "other", "netns", strconv.Itoa(second.leader))
	if out, err := move.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", move.Args, err, out)
	}
	second.Run(t, "ip", "link", "set", "other", "name", "cable")
	for i, m := range []*Machine{first, second} {
		m.Run(t, "ip", "address", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "cable")
		m.Run(t, "ip", "link", "set", "cable", "up")
	}
}

// tree is that of a machine, which is made the first time.
func tree(t testing.TB) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	script := filepath.Join(filepath.Dir(file), "..", "..", ".ci", "machine")
	cmd := exec.Command(script)
	cmd.Stderr = os.Stderr // that it takes long
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("there is no machine; .ci/machine makes it: %v", err)
	}
	return strings.TrimSpace(string(out))
}
