package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestHandlerCannotReadTheDaemon has a handler of the daemon's own user look at what the
// daemon was started with, what it has in memory, and what it has open. Root may look at
// all of that, and so is not the user.
func TestHandlerCannotReadTheDaemon(t *testing.T) {
	t.Parallel()
	var who *syscall.Credential
	if os.Geteuid() == 0 {
		who = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	const script = `id -u; for f in environ mem maps; do (: < /proc/$PPID/$f) 2> /dev/null && echo read $f; done; ls /proc/$PPID/fd 2> /dev/null; cat /proc/$PPID/comm`
	v := rabbittest.NewVhost(t)
	v.Declare(t, "answers", nil)
	d := launchAs(t, who, append(commandQueue(v, "commands", script), "WARREN_ADMIN_ADDR=127.0.0.1:0")...)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return d.hasEnded() || strings.Contains(d.log.String(), "msg=consuming") }, "the daemon consumes")
	v.Publish(t, "commands", amqp091.Publishing{ReplyTo: "answers"})
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "answers") == 1 }, "the handler has answered")

	lines := strings.Fields(string(v.Drain(t, "answers")[0].Body))
	if len(lines) != 2 || lines[0] == "0" || lines[1] != "warren" {
		t.Errorf("the handler got to %q, want its user, not root, and the name of the daemon", lines)
	}
	// What it tells of itself it has from the same files.
	_, metrics := fetch(t, d.adminURL(t)+"/metrics")
	for _, name := range []string{"process_open_fds", "process_resident_memory_bytes", "process_cpu_seconds_total"} {
		if !strings.Contains(metrics, "\n"+name+" ") {
			t.Errorf("/metrics lacks %s", name)
		}
	}
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
}
