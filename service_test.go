package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// notifySocket is one such as the service manager's.
func notifySocket(t *testing.T) (path string, socket *net.UnixConn) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return path, socket
}

// TestSystemdIsTold starts the daemon as systemd does while the network is away, lets it
// consume, takes the network away once more, and stops it.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	proxy := rabbittest.NewProxy(t, v.Node.Addr())
	proxy.Refuse()
	user := strings.ToLower(v.Name)
	v.AddUser(t, user, "first", ".*", ".*", ".*")
	url := filepath.Join(t.TempDir(), "amqp_url")
	rotate := func(password string) {
		if err := os.WriteFile(url, []byte(strings.Replace(v.URLAt(proxy.Addr), "guest:guest", user+":"+password, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rotate("first")
	path, socket := notifySocket(t)
	told := make(chan string, 1000)
	go func() {
		defer close(told)
		for buffer := make([]byte, 4096); ; {
			n, err := socket.Read(buffer)
			if err != nil {
				return
			}
			for line := range strings.Lines(string(buffer[:n])) {
				told <- strings.TrimSpace(line)
			}
		}
	}()
	var before []string          // all that was told
	await := func(what string) { // a part of a line, its end included
		t.Helper()
		for deadline := time.After(3 * time.Minute); ; {
			select {
			case line := <-told:
				before = append(before, line)
				if strings.Contains(line+"\n", what) {
					return
				}
			case <-deadline:
				t.Fatalf("systemd was told %q, want %q", before, what)
			}
		}
	}

	d := launch(t, "WARREN_AMQP_URL_FILE="+url, "WARREN_QUEUES=orders", "WARREN_QUEUE_ORDERS_PROCESSOR=log", "WARREN_ADMIN_ADDR=",
		"NOTIFY_SOCKET="+path, "WATCHDOG_USEC=3000000")
	await("EXTEND_TIMEOUT_USEC=60000000")
	await("1 queue, 0 in flight, 0 done, connecting to " + proxy.Addr)
	await("WATCHDOG=1")
	for _, line := range before {
		if line == "READY=1" {
			t.Fatalf("systemd was told %q, want no READY before the broker can be reached", before)
		}
	}
	proxy.Restore(t)
	await("READY=1")
	if v.Consumers(t, "orders") != 1 {
		t.Error("the daemon says that it is ready, but does not consume")
	}
	v.PublishN(t, "orders", 1, withID("ID"))
	await("STATUS=1 queue, 0 in flight, 1 done\n")
	proxy.Refuse()
	await("STATUS=1 queue, 0 in flight, 1 done, reconnecting to " + proxy.Addr)
	await("WATCHDOG=1")
	proxy.Restore(t)
	await("STATUS=1 queue, 0 in flight, 1 done\n")

	reload := func(want string) {
		t.Helper()
		if err := d.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		await("RELOADING=1")
		await("MONOTONIC_USEC=")
		await("READY=1")
		rabbittest.Eventually(t, 20*time.Second, func() bool { return strings.Contains(d.log.String(), want) }, "the log has "+want)
	}
	v.Node.ChangePassword(t, user, "second")
	rotate("second")
	reload("reloaded: passwords and certificates have been read anew")
	rotate("wr0ng")
	reload(`reload: the passwords and certificates that there are now do not work, the connection with those of before stays" source="file ` + url + `" error="the node refused the user name or password`)
	v.PublishN(t, "orders", 1, withID("LATER"))
	await("STATUS=1 queue, 0 in flight, 2 done")
	if strings.Contains(d.log.String(), "wr0ng") {
		t.Error("the log tells the password")
	}
	d.signal(t, syscall.SIGTERM)
	await("STOPPING=1")
	await("EXTEND_TIMEOUT_USEC=30000000")
	await("STATUS=stopping: 1 queue")
	wantExit(t, d, 0)
}

func TestSystemdIsToldWhyTheDaemonEnds(t *testing.T) {
	t.Parallel()
	path, socket := notifySocket(t)
	if _, _, status := output(t, warren(t, []string{"NOTIFY_SOCKET=" + path})); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	buffer := make([]byte, 4096)
	n, err := socket.Read(buffer)
	if got := string(buffer[:n]); err != nil || !strings.Contains(got, "STATUS=configuration: WARREN_QUEUES must be set") {
		t.Errorf("systemd was told %q and %v, want what is wrong", got, err)
	}
}
