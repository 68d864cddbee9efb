// Package machinetest boots real machines for tests: Debian with systemd as its process 1,
// in a container of systemd-nspawn.
//
//	m := machinetest.Boot(t)
//	m.Run(t, "systemctl", "start", "rabbitmq-server")
//	m.Write(t, "/etc/warren/warren.env", 0o640, "WARREN_QUEUES=emails\n")
//
// It needs root's rights. A machine has
//
//   - a disk, in memory: what differs from a tree that .ci/machine makes;
//   - a network that leads nowhere but to the machine that it is connected with;
//   - a control group. Without one of its own, its systemd would take the services of the
//     other machines for its own, and stop them.
//
// Nothing of a machine is on the host's disk or in its network. One that runs still when its
// process is killed is ended when the next one is booted.
//
// What systemd confines services with works in it without further ado: namespaces of
// mounts, users and processes, filters of system calls, credentials. It does not limit
// memory and CPU, as those control groups are the host's; and the kernel, its modules
// and its clock are the host's, which nspawn lets nobody change.
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
	"slices"
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
	mounts *os.File // the namespace that its disk is mounted in
	disk   *os.Root
	group  *os.File // its control group; nil when it has ended
	nspawn *exec.Cmd
	output bytes.Buffer  // of nspawn and the console; only when it has ended
	ended  chan struct{} // nspawn has
	leader int           // its process 1, as the host sees it
	cable  bool
}

// bootTimeout is what a machine may take until systemd starts its services.
const bootTimeout = time.Minute

// Boot boots a machine, and ends it with the test. It returns when all that it starts at
// boot has started; RabbitMQ is not of that.
func Boot(t testing.TB) *Machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("booting a machine needs root's rights: run sudo make test-systemd")
	}
	m := &Machine{}
	lower := tree(t)
	t.Cleanup(func() {
		if m.mounts != nil {
			_ = m.mounts.Close()
		}
		if m.disk != nil {
			_ = m.disk.Close()
		}
	})
	if err := onThread(func() error { return m.mount(lower) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Kill(t) })
	m.Boot(t)
	m.Run(t, "systemctl", "is-system-running", "--wait")
	return m
}

// mount mounts the disk, in a namespace of the thread. The folder /run is in memory there,
// for what nspawn leaves in it.
func (m *Machine) mount(lower string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts from the host: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount a disk in memory: %w", err)
	}
	for _, dir := range []string{"/run/upper", "/run/work", "/run/machine"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", "/run/machine", "overlay", 0, "lowerdir="+lower+",upperdir=/run/upper,workdir=/run/work"); err != nil {
		return fmt.Errorf("mount the disk upon %s: %w", lower, err)
	}
	var err error
	if m.disk, err = os.OpenRoot("/run/machine"); err != nil {
		return err
	}
	m.mounts, err = os.Open("/proc/thread-self/ns/mnt")
	return err
}

// Boot boots a machine once more that was killed, with the disk that it had. It returns
// when systemd is starting the services, whether they come up or not.
func (m *Machine) Boot(t testing.TB) {
	t.Helper()
	var err error
	if m.group, err = newGroup(); err != nil {
		t.Fatalf("control group: %v", err)
	}
	m.ended = make(chan struct{})
	m.output.Reset()
	m.nspawn = exec.Command("systemd-nspawn", "--quiet", "--directory=/run/machine", "--machine=machine",
		"--register=no", "--keep-unit", "--private-network", "--resolv-conf=off", "--timezone=off", "--console=pipe", "--boot")
	m.nspawn.Dir = "/"
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	m.nspawn.Stdout, m.nspawn.Stderr = &m.output, &m.output
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{
		Setsid:      true,
		Pdeathsig:   syscall.SIGKILL,
		UseCgroupFD: true,
		CgroupFD:    int(m.group.Fd()),
	}
	started := make(chan error, 1)
	go func() {
		defer close(m.ended)
		// The thread has to live as long as nspawn: its end is what Pdeathsig is about.
		_ = onThread(func() error {
			err := enter(m.mounts, unix.CLONE_NEWNS)
			if err == nil {
				err = m.nspawn.Start()
			}
			started <- err
			if err == nil {
				_ = m.nspawn.Wait() // it is killed
			}
			return nil
		})
	}()
	if err := <-started; err != nil {
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

func (m *Machine) isUp() bool {
	state, _ := m.Try("systemctl", "is-system-running")
	return slices.Contains([]string{"starting", "running", "degraded"}, state)
}

// Kill ends the machine as a power cut does: all at once, and nobody that it was connected
// with hears of it. One that has ended is left as it is.
func (m *Machine) Kill(t testing.TB) {
	t.Helper()
	if m.group == nil {
		return
	}
	if m.cable { // through which the kernel would close the connections
		_, _ = m.Try("ip", "link", "set", "cable", "down") // it is gone with the machine at its other end
		m.cable = false
	}
	group := m.group
	m.group, m.leader = nil, 0
	if err := errors.Join(kill(group.Name()), group.Close()); err != nil {
		t.Fatalf("kill the machine: %v", err)
	}
	<-m.ended
	rabbittest.Eventually(t, 20*time.Second, func() bool { return remove(group.Name()) == nil }, "all of the machine has ended")
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

// Write writes a file of the machine, and makes the folders that it needs.
func (m *Machine) Write(t testing.TB, path string, mode os.FileMode, content string) {
	t.Helper()
	path = strings.TrimPrefix(path, "/")
	if err := errors.Join(m.disk.MkdirAll(filepath.Dir(path), 0o755), m.disk.WriteFile(path, []byte(content), mode), m.disk.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

// Read returns what is in a file of the machine, which may have ended; nothing if there is
// none. It sees the disk alone: not /run, nor another mount in the machine.
func (m *Machine) Read(t testing.TB, path string) string {
	t.Helper()
	content, err := m.disk.ReadFile(strings.TrimPrefix(path, "/"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(content)
}

// Dial connects from within the machine: 127.0.0.1 is the machine's own.
func (m *Machine) Dial(network, addr string) (conn net.Conn, err error) {
	return conn, m.online(func() error {
		conn, err = net.DialTimeout(network, addr, 10*time.Second)
		return err
	})
}

// Listen listens within the machine, until the test ends.
func (m *Machine) Listen(t testing.TB, addr string) (l net.Listener) {
	t.Helper()
	if err := m.online(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// online calls open in the machine's network, where the socket that it opens stays.
func (m *Machine) online(open func() error) error {
	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.leader))
	if err != nil {
		return err
	}
	defer func() { _ = network.Close() }()
	return onThread(func() error {
		if err := enter(network, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return open()
	})
}

// Connect lays a cable between two machines, whose addresses are 10.77.0.1 and 10.77.0.2.
// It lasts until one of them is killed.
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
		m.cable = true
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

// onThread calls f on a thread that ends with it, whatever namespaces it has entered.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good
		done <- f()
	}()
	return <-done
}

// enter has the thread enter a namespace.
func enter(namespace *os.File, kind int) error {
	if kind == unix.CLONE_NEWNS { // which takes a thread whose working directory is its own
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
	}
	return unix.Setns(int(namespace.Fd()), kind)
}
