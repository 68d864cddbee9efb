//go:build systemd

package machinetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/warrenmq/warren/internal/rabbittest"
)

func TestMain(m *testing.M) {
	if os.Getenv(bootAndWait) != "" {
		testing.Init()
		m.Run()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestAMachineKeepsItsDiskAcrossAPowerCut(t *testing.T) {
	m := Boot(t)
	if got := m.Run(t, "cat", "/proc/1/comm"); got != "systemd" {
		t.Errorf("process 1: got %s, want systemd", got)
	}
	m.Write(t, "/srv/new/file", 0o600, "kept")
	m.Kill(t)
	if out, err := m.Try("true"); err == nil {
		t.Errorf("a command in a machine that was killed: got success (%s), want a failure", out)
	}
	if got := m.Read(t, "/srv/new/file"); got != "kept" {
		t.Errorf("file on the disk of a machine that was killed: got %q, want kept", got)
	}
	m.Boot(t)
	if got := m.Run(t, "cat", "/srv/new/file"); got != "kept" {
		t.Errorf("file after the power cut: got %q, want kept", got)
	}
	if _, err := m.Try("cat", "/srv/none"); err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("command that fails: got %v, want its standard error", err)
	}
	if _, err := os.Stat("/srv/new/file"); err == nil {
		t.Error("the file is on the host, too")
	}
}

// TestMachinesShareNothing stops a service of one machine, which runs in both.
func TestMachinesShareNothing(t *testing.T) {
	first, second := Boot(t), Boot(t)
	for _, m := range []*Machine{first, second} {
		m.Run(t, "systemd-run", "--unit=sleep", "sleep", "infinity")
	}
	first.Run(t, "systemctl", "kill", "--signal=KILL", "sleep")
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		_, err := first.Try("systemctl", "is-active", "sleep")
		return err != nil
	}, "the service has ended")
	if state, _ := second.Try("systemctl", "is-active", "sleep"); state != "active" {
		t.Errorf("the same service on the other machine: got %s, want active", state)
	}
	if one, two := first.Run(t, "cat", "/etc/machine-id"), second.Run(t, "cat", "/etc/machine-id"); one == two {
		t.Errorf("both have the machine id %s", one)
	}
}

func TestMachinesReachEachOther(t *testing.T) {
	first, second := Boot(t), Boot(t)
	Connect(t, first, second)
	l := second.Listen(t, "10.77.0.2:7")
	greeted := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = conn.Write([]byte("hello"))
			_ = conn.Close()
		}
		greeted <- err
	}()
	conn, err := first.Dial("tcp", "10.77.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := <-greeted; err != nil {
		t.Fatal(err)
	}
	if links := first.Run(t, "ip", "-brief", "link"); strings.Count(links, "\n") != 1 {
		t.Errorf("links of a machine: got\n%s\nwant lo and the cable", links)
	}
}

// bootAndWait has TestBootAndWait do that.
const bootAndWait = "MACHINETEST_BOOT_AND_WAIT"

// TestBootAndWait is the process that TestTheNextBootEndsWhatAKilledProcessLeft kills.
func TestBootAndWait(t *testing.T) {
	if os.Getenv(bootAndWait) == "" {
		return
	}
	m := Boot(t)
	m.Run(t, "systemd-run", "--unit=sleep", "sleep", "infinity")
	fmt.Printf("group %s\n", m.group.Name())
	select {}
}

func TestTheNextBootEndsWhatAKilledProcessLeft(t *testing.T) {
	before := leavings(t)
	test := exec.Command(os.Args[0], "-test.run=^TestBootAndWait$")
	test.Env = append(os.Environ(), bootAndWait+"=1")
	test.Stderr = os.Stderr
	out, err := test.StdoutPipe()
	if err == nil {
		err = test.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var group string
	_, scanErr := fmt.Fscanf(out, "group %s\n", &group)
	if err := test.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = test.Wait() // it was killed
	if scanErr != nil {
		t.Fatalf("the other process has booted no machine: %v", scanErr)
	}
	if after := leavings(t); after != before {
		t.Errorf("on the host: got\n%s\nbefore it was\n%s", after, before)
	}
	Boot(t)
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		events, err := os.ReadFile(filepath.Join(group, "cgroup.events"))
		return errors.Is(err, fs.ErrNotExist) || err == nil && strings.Contains(string(events), "populated 0")
	}, "all processes of the machine have ended with the next boot")
}

// leavings are mounts and network interfaces, and the files where nspawn is known to leave
// some.
func leavings(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "findmnt -rn -o TARGET; ip -brief link | cut -d ' ' -f 1; find /run/systemd/nspawn /var/tmp /tmp -maxdepth 2 -path '*machine*' 2>/dev/null; true").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
