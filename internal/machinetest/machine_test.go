//go:build systemd

package machinetest

import (
	"os"
	"strings"
	"testing"
)

func TestAMachineKeepsItsDiskAcrossAPowerCut(t *testing.T) {
	m := Boot(t)
	if got := m.Run(t, "cat", "/proc/1/comm"); got != "systemd" {
		t.Errorf("process 1: got %s, want systemd", got)
	}
	m.Write(t, "/srv/new/file", 0o600, "kept")
	m.Kill(t)
	if m.Read(t, "/srv/new/file") != "" {
		t.Error("the machine that was killed can still be read")
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
