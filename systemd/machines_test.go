//go:build systemd

package systemd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/machinetest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// A server is a machine with the package installed.
type server struct {
	*machinetest.Machine
}

// packages are those that have been built, by version and tags.
var packages struct {
	sync.Mutex
	built map[string]string
}

// built is a package of this version for the machines, its program built with the tags.
func built(t *testing.T, version, tags string) string {
	t.Helper()
	packages.Lock()
	defer packages.Unlock()
	if content := packages.built[version+tags]; content != "" {
		return content
	}
	dir := t.TempDir()
	cmd := exec.Command("package/build", dir)
	cmd.Env = append(os.Environ(), "VERSION="+version, "TAGS="+tags, "ARCHS="+runtime.GOARCH, "FORMATS=deb")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("packages in %s: got %v and error %v, want one", dir, paths, err)
	}
	content, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	if packages.built == nil {
		packages.built = make(map[string]string)
	}
	packages.built[version+tags] = string(content)
	return string(content)
}

const version = "1.0.0"

// boot boots a machine and installs the package.
func boot(t *testing.T, tags string) *server {
	t.Helper()
	deb := built(t, version, tags)
	s := &server{machinetest.Boot(t)}
	s.install(t, deb)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := s.Try("journalctl", "--no-pager", "-u", "warren*", "-n", "60")
			t.Logf("the journal of warren:\n%s", out)
		}
	})
	return s
}

func (s *server) install(t *testing.T, deb string) {
	t.Helper()
	s.Write(t, "/root/warren.deb", 0o644, deb)
	s.Run(t, "apt-get", "install", "--yes", "/root/warren.deb")
}

// configure writes the environment file, and the credential with the broker's URL.
func (s *server) configure(t *testing.T, url string, lines ...string) {
	t.Helper()
	s.Write(t, "/etc/warren/warren.env", 0o640, strings.Join(lines, "\n")+"\n")
	s.Write(t, "/etc/credstore/warren_amqp_url", 0o600, url)
}

const (
	password = "Xk29-secret"
	brokerAt = "amqp://shop:" + password + "@127.0.0.1:5672/"
)

// startBroker starts RabbitMQ in the machine, with a user shop.
func (s *server) startBroker(t *testing.T) {
	t.Helper()
	s.Run(t, "systemctl", "start", "rabbitmq-server")
	s.Run(t, "rabbitmqctl", "-q", "await_startup")
	s.Run(t, "rabbitmqctl", "-q", "add_user", "shop", password)
	s.Run(t, "rabbitmqctl", "-q", "set_permissions", "shop", ".*", ".*", ".*")
}

// handler is a queue whose messages are numbers that a command writes to a file, after a
// time that the messages have in their type.
func handler(queue, ledger string, more ...string) []string {
	prefix := "WARREN_QUEUE_" + strings.ToUpper(queue) + "_"
	return append([]string{
		prefix + "PROCESSOR=command",
		prefix + `COMMAND="/bin/sh -c 'read -r n pause; sleep $pause; echo $n >> ` + ledger + `'"`,
	}, more...)
}

// A publisher publishes to the broker of a machine, with confirms.
type publisher struct {
	conn *amqp091.Connection
	ch   *amqp091.Channel
	sent int
}

func (s *server) publisher(t *testing.T) *publisher {
	t.Helper()
	conn, err := amqp091.DialConfig(brokerAt, amqp091.Config{Dial: s.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &publisher{conn: conn, ch: ch}
}

// send publishes n messages that take so long each, with the next numbers.
func (p *publisher) send(t *testing.T, queue string, n int, pause string) {
	t.Helper()
	if err := p.trySend(queue, n, pause); err != nil {
		t.Fatal(err)
	}
}

func (p *publisher) trySend(queue string, n int, pause string) error {
	var confirms []*amqp091.DeferredConfirmation
	for range n {
		p.sent++
		c, err := p.ch.PublishWithDeferredConfirm("", queue, true, false, amqp091.Publishing{
			MessageId: fmt.Sprintf("%s-%d", queue, p.sent), DeliveryMode: amqp091.Persistent, Body: fmt.Appendf(nil, "%d %s\n", p.sent, pause),
		})
		if err != nil {
			return err
		}
		confirms = append(confirms, c)
	}
	for _, c := range confirms {
		if !c.Wait() {
			return errors.New("the broker has not confirmed a message")
		}
	}
	return nil
}

// wantEachOnce waits until the ledger has the numbers from 1 to n, and wants each once.
func (s *server) wantEachOnce(t *testing.T, ledger string, n int, timeout time.Duration) {
	t.Helper()
	rabbittest.Eventually(t, timeout, func() bool { return distinct(s.lines(t, ledger)) == n }, fmt.Sprintf("all %d messages are done", n))
	if got := s.lines(t, ledger); len(got) != n {
		slices.Sort(got)
		t.Errorf("lines in the ledger: got %d, want %d, each once:\n%s", len(got), n, got)
	}
}

func (s *server) lines(t *testing.T, path string) []string {
	t.Helper()
	return strings.Fields(s.Read(t, path))
}

func distinct(lines []string) int { return len(slices.Compact(slices.Sorted(slices.Values(lines)))) }

// property is one of a unit's.
func (s *server) property(t *testing.T, unit, name string) string {
	t.Helper()
	return s.Run(t, "systemctl", "show", "--value", "--property", name, unit)
}

func (s *server) want(t *testing.T, unit, property, want string) {
	t.Helper()
	if got := s.property(t, unit, property); got != want {
		t.Errorf("%s of %s: got %q, want %q", property, unit, got, want)
	}
}

// journal returns the lines that match, without their times. Whatever was written before is
// in it: journald takes its time, and a finished reload may come before its last line.
func (s *server) journal(t *testing.T, matches ...string) string {
	t.Helper()
	s.Run(t, "journalctl", "--sync")
	lines, _ := s.Try(append([]string{"journalctl", "--no-pager", "--quiet", "-o", "cat"}, matches...)...) // fails while there is none
	return lines
}

// await waits until the status of warren, as systemd shows it, contains the text.
func (s *server) await(t *testing.T, text string) {
	t.Helper()
	var got string
	rabbittest.Eventually(t, 30*time.Second, func() bool {
		got = s.property(t, "warren", "StatusText")
		return strings.Contains(got, text)
	}, "the status says "+text)
	t.Logf("status: %s", got)
}

// TestAServiceFromInstallationToPurge is the life of a service on one machine.
func TestAServiceFromInstallationToPurge(life *testing.T) {
	t := life
	t.Parallel()
	s := boot(t, "")
	const ledger = "/var/lib/warren/ledger"
	step := func(name string, f func(*testing.T)) {
		if !t.Run(name, f) {
			t.FailNow() // what follows needs it
		}
	}
	var p *publisher

	step("installation starts nothing", func(t *testing.T) {
		s.want(t, "warren", "ActiveState", "inactive")
		s.want(t, "warren", "UnitFileState", "disabled")
		s.Run(t, "id", "warren")
		if out, err := s.Try("systemctl", "start", "warren"); err == nil {
			t.Errorf("start without a configuration: got success (%s), want a failure", out)
		}
		s.await(t, "configuration: WARREN_QUEUES must be set")
		rabbittest.Eventually(t, 20*time.Second, func() bool {
			return strings.Contains(s.journal(t, "-u", "warren", "-t", "warren", "-p", "err"), "warren: configuration: WARREN_QUEUES must be set")
		}, "the journal has the fault with the priority of an error")
		s.Run(t, "systemctl", "stop", "warren")
	})
	step("systemctl start returns when it consumes", func(t *testing.T) {
		s.startBroker(t)
		s.configure(t, brokerAt, append(handler("orders", ledger), "WARREN_QUEUES=orders,audits", "WARREN_QUEUE_AUDITS_PROCESSOR=log")...)
		s.Run(t, "systemctl", "enable", "--now", "warren")
		consumers := s.Run(t, "rabbitmqctl", "-q", "--no-table-headers", "list_consumers", "queue_name")
		for _, queue := range []string{"orders", "audits"} {
			if !strings.Contains(consumers, queue) {
				t.Errorf("consumers at once after the start: got %q, want one of %s", consumers, queue)
			}
		}
		if out := s.journal(t, "-u", "warren"); strings.Contains(out, password) {
			t.Errorf("the journal has the password:\n%s", out)
		}
	})
	step("messages published on the machine are done, and found in the journal", func(t *testing.T) {
		p = s.publisher(life)
		p.send(t, "orders", 20, "0")
		s.wantEachOnce(t, ledger, 20, 20*time.Second)
		s.Run(t, "warren", "publish", "--message-id", "audit-1", "audits", "{}") // with the default URL
		s.Run(t, "warren", "publish", "--message-id", "audit-2", "audits", "{}")
		var found string
		rabbittest.Eventually(t, 10*time.Second, func() bool {
			found = s.journal(t, "QUEUE=audits", "MESSAGE_ID_AMQP=audit-2")
			return found != ""
		}, "the journal has lines of the message")
		if strings.Count(found, "message_id=audit-2") != strings.Count(found, "\n")+1 {
			t.Errorf("lines of one message: got\n%s\nwant none of another", found)
		}
		t.Logf("journalctl QUEUE=audits MESSAGE_ID_AMQP=audit-2: %s", found)
	})
	step("systemctl stop finishes what is under way", func(t *testing.T) {
		p.send(t, "orders", 30, "6") // it is told to stop before the first are done
		rabbittest.Eventually(t, 10*time.Second, func() bool {
			return strings.Contains(s.property(t, "warren", "StatusText"), "8 in flight")
		}, "it is at work")
		began := time.Now()
		s.Run(t, "systemctl", "stop", "warren")
		t.Logf("stop took %v", time.Since(began).Round(time.Millisecond))
		s.want(t, "warren", "ActiveState", "inactive")
		s.want(t, "warren", "Result", "success")
		s.want(t, "warren", "ExecMainStatus", "0")
		finished := len(s.lines(t, ledger)) - 20
		if finished < 8 || finished == 30 {
			t.Errorf("done at the stop: got %d of 30, want the 8 under way, and not all", finished)
		}
		rabbittest.Eventually(t, 10*time.Second, func() bool {
			left, err := p.ch.QueueDeclarePassive("orders", true, false, false, false, nil)
			return err == nil && left.Messages == 30-finished
		}, fmt.Sprintf("the other %d are back in the queue", 30-finished))
		s.Run(t, "systemctl", "start", "warren")
		s.wantEachOnce(t, ledger, 50, 60*time.Second)
	})
	step("systemctl restart under load loses and repeats nothing", func(t *testing.T) {
		published := make(chan error, 1)
		go func() {
			var err error
			for i := 0; i < 40 && err == nil; i++ {
				err = p.trySend("orders", 100, "0.01")
				<-time.After(100 * time.Millisecond)
			}
			published <- err
		}()
		for range 4 {
			<-time.After(2 * time.Second) // of load before the next
			s.Run(t, "systemctl", "restart", "warren")
		}
		if err := <-published; err != nil {
			t.Fatal(err)
		}
		s.wantEachOnce(t, ledger, 4050, 2*time.Minute)
		t.Log("4,000 messages over 4 restarts: each done once")
	})
	step("systemctl reload has a password rotated under load", func(t *testing.T) {
		s.Write(t, "/etc/warren/amqp_url", 0o640, brokerAt)
		s.Run(t, "chgrp", "warren", "/etc/warren/amqp_url")
		s.Run(t, "sh", "-c", "echo WARREN_AMQP_URL_FILE=/etc/warren/amqp_url >>/etc/warren/warren.env")
		s.Run(t, "systemctl", "restart", "warren")
		pid := s.property(t, "warren", "MainPID")
		published := make(chan error, 1)
		go func() {
			var err error
			for i := 0; i < 10 && err == nil; i++ {
				err = p.trySend("orders", 100, "0.01")
			}
			published <- err
		}()
		s.Run(t, "rabbitmqctl", "-q", "change_password", "shop", password+"-2")
		s.Write(t, "/etc/warren/amqp_url", 0o640, strings.Replace(brokerAt, password, password+"-2", 1))
		s.Run(t, "systemctl", "reload", "warren")
		// systemd may take it for done a moment before, on a machine where the daemon is slow to say that it reloads.
		rabbittest.Eventually(t, rabbittest.Soon, func() bool {
			return strings.Contains(s.journal(t, "-u", "warren"), "reloaded: passwords and certificates have been read anew")
		}, "the journal says that the reload has succeeded")
		if strings.Contains(s.journal(t, "-u", "warren"), "attempt failed") {
			t.Error("the journal of the reload: want no failed attempt")
		}
		if err := <-published; err != nil {
			t.Fatal(err)
		}
		s.wantEachOnce(t, ledger, 5050, 2*time.Minute)
		s.want(t, "warren", "MainPID", pid)
		s.want(t, "warren", "ActiveState", "active")
		s.Run(t, "rabbitmqctl", "-q", "change_password", "shop", password)
		s.Write(t, "/etc/warren/amqp_url", 0o640, brokerAt)
		s.Run(t, "systemctl", "reload", "warren")
		s.want(t, "warren", "MainPID", pid)
	})
	step("the watchdog restarts a process that is stopped", func(t *testing.T) {
		before := s.property(t, "warren", "MainPID")
		s.Run(t, "kill", "-STOP", before)
		p.send(t, "orders", 10, "0")
		began := time.Now()
		rabbittest.Eventually(t, time.Minute, func() bool { return s.property(t, "warren", "NRestarts") != "0" }, "systemd restarts it")
		s.wantEachOnce(t, ledger, 5060, 20*time.Second)
		t.Logf("consuming again %v after SIGSTOP", time.Since(began).Round(time.Second))
	})
	step("an instance runs beside it", func(t *testing.T) {
		s.Write(t, "/etc/warren/emails.env", 0o640, "WARREN_QUEUES=emails\nWARREN_ADMIN_ADDR=127.0.0.1:9467\nWARREN_QUEUE_EMAILS_PROCESSOR=log\n")
		s.Run(t, "systemctl", "enable", "--now", "warren@emails")
		s.want(t, "warren", "ActiveState", "active")
		s.want(t, "warren@emails", "StatusText", "1 queue, 0 in flight, 0 done")
	})
	step("the sandbox is tight", func(t *testing.T) { s.wantExposure(t, 1.2) })
	step("what it takes from the machine is limited", func(t *testing.T) {
		for _, unit := range []string{"warren", "warren@emails"} {
			for property, want := range map[string]string{"OOMPolicy": "continue", "TasksMax": "4096", "LimitCORE": "0", "UMask": "0027"} {
				s.want(t, unit, property, want)
			}
			if got := s.property(t, unit, "MemoryMax"); got == "infinity" {
				t.Errorf("MemoryMax of %s: got %s, want a limit", unit, got)
			}
		}
	})
	step("the documented check has the credentials of drop-ins", func(t *testing.T) {
		s.Write(t, "/etc/systemd/system/warren.service.d/credentials.conf", 0o644, "[Service]\nLoadCredential=warren_queue_audits_concurrency:/etc/credstore/concurrency\n")
		s.Write(t, "/etc/credstore/concurrency", 0o600, "3\n")
		s.Run(t, "systemctl", "daemon-reload")
		command := documentedCheck(t)
		s.Run(t, "sh", "-c", command+" || [ $? -eq 3 ]") // warnings are about messages
		config := s.Run(t, "sh", "-c", strings.TrimSuffix(command, "check")+"config")
		if !strings.Contains(config, "WARREN_QUEUE_AUDITS_CONCURRENCY=3") {
			t.Errorf("config with the credentials of the unit: got\n%s\nwant the concurrency of the credential", config)
		}
		s.Run(t, "rm", "/etc/systemd/system/warren.service.d/credentials.conf")
		s.Run(t, "systemctl", "daemon-reload")
	})
	step("an upgrade keeps the configuration and restarts what runs", func(t *testing.T) {
		pids := []string{s.property(t, "warren", "MainPID"), s.property(t, "warren@emails", "MainPID")}
		before := s.Read(t, "/etc/warren/warren.env")
		s.install(t, built(t, "1.1.0", ""))
		if after := s.Read(t, "/etc/warren/warren.env"); after != before {
			t.Errorf("environment file: got %q, want %q", after, before)
		}
		for i, unit := range []string{"warren", "warren@emails"} {
			s.want(t, unit, "ActiveState", "active")
			if pid := s.property(t, unit, "MainPID"); pid == pids[i] {
				t.Errorf("%s has the same process %s as before the upgrade, want another", unit, pid)
			}
		}
		if got := s.Run(t, "warren", "version"); !strings.Contains(got, "v1.1.0") {
			t.Errorf("version: got %s, want 1.1.0", got)
		}
		p.send(t, "orders", 10, "0")
		s.wantEachOnce(t, ledger, 5070, 20*time.Second)
	})
	step("removal leaves no process", func(t *testing.T) {
		s.Run(t, "apt-get", "remove", "--yes", "warren")
		if out, err := s.Try("pgrep", "-a", "-u", "warren"); err == nil {
			t.Errorf("processes left: %s", out)
		}
		if s.Read(t, "/etc/warren/warren.env") == "" || s.Read(t, ledger) == "" {
			t.Error("configuration and data are gone with the removal, want them kept for a purge")
		}
	})
	step("purge leaves no file and no account", func(t *testing.T) {
		s.Run(t, "apt-get", "purge", "--yes", "warren")
		if out, err := s.Try("getent", "passwd", "warren"); err == nil {
			t.Errorf("account left: %s", out)
		}
		if out, err := s.Try("getent", "group", "warren"); err == nil {
			t.Errorf("group left: %s", out)
		}
		// What apt and the broker have of the name is their own.
		left := s.Run(t, "find", "/", "-xdev", "-path", "/proc", "-prune", "-o", "-iname", "*warren*", "-not", "-path", "/root/*", "-not", "-path", "/var/lib/rabbitmq/*", "-print")
		if left != "" {
			t.Errorf("files left:\n%s", left)
		}
	})
}

// documentedCheck is the command of docs/operations.md that checks the configuration.
func documentedCheck(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(page), "```sh\nsystemd-run ")
	command, _, found := strings.Cut(after, "\n```")
	if !found || !strings.HasSuffix(command, "warren check") {
		t.Fatalf("docs/operations.md: got %q, want a command with systemd-run that ends in warren check", command)
	}
	return "systemd-run " + command
}

// wantExposure holds what systemd-analyze security makes of the unit.
func (s *server) wantExposure(t *testing.T, most float64) {
	t.Helper()
	out := s.Run(t, "systemd-analyze", "security", "--no-pager", "warren.service")
	last := out[strings.LastIndex(out, "\n")+1:]
	t.Log(last)
	_, after, _ := strings.Cut(last, "warren.service: ")
	got, err := strconv.ParseFloat(strings.Fields(after + " ?")[0], 64)
	if err != nil || got > most {
		t.Errorf("exposure: got %v (%v), want %v or less:\n%s", got, err, most, out)
	}
}

// TestABrokerThatIsAway stops the broker for a minute, and boots a machine without it.
func TestABrokerThatIsAway(t *testing.T) {
	t.Parallel()
	s := boot(t, "")
	s.startBroker(t)
	const ledger = "/var/lib/warren/ledger"
	s.configure(t, brokerAt, append(handler("orders", ledger), "WARREN_QUEUES=orders")...)
	s.Write(t, "/etc/systemd/system/warren.service.d/start.conf", 0o644, "[Service]\nTimeoutStartSec=30s\n")
	s.Run(t, "systemctl", "daemon-reload")
	s.Run(t, "systemctl", "enable", "--now", "warren")
	pid := s.property(t, "warren", "MainPID")
	s.publisher(t).send(t, "orders", 10, "0")
	s.wantEachOnce(t, ledger, 10, 20*time.Second)

	s.Run(t, "systemctl", "stop", "rabbitmq-server")
	for range 6 {
		s.await(t, "reconnecting to 127.0.0.1:5672 for ")
		s.want(t, "warren", "ActiveState", "active")
		<-time.After(10 * time.Second) // a minute is what it has to survive
	}
	s.Run(t, "systemctl", "start", "rabbitmq-server")
	rabbittest.Eventually(t, 30*time.Second, func() bool { return s.property(t, "warren", "StatusText") == "1 queue, 0 in flight, 10 done" }, "it consumes again")
	s.want(t, "warren", "NRestarts", "0")
	s.want(t, "warren", "MainPID", pid)
	p := s.publisher(t)
	p.sent = 10
	p.send(t, "orders", 10, "0")
	s.wantEachOnce(t, ledger, 20, 20*time.Second)

	// The power is cut, and comes back; the broker does not.
	s.Run(t, "sync")
	s.Kill(t)
	s.Boot(t)
	began := time.Now()
	for time.Since(began) < 90*time.Second { // three times TimeoutStartSec
		s.await(t, "connecting to 127.0.0.1:5672 for ")
		s.want(t, "warren", "ActiveState", "activating")
		<-time.After(4 * time.Second)
	}
	s.Run(t, "systemctl", "start", "rabbitmq-server")
	rabbittest.Eventually(t, 30*time.Second, func() bool { return s.property(t, "warren", "ActiveState") == "active" }, "the unit comes up")
	s.want(t, "warren", "NRestarts", "0")
	p = s.publisher(t)
	p.sent = 20
	p.send(t, "orders", 10, "0")
	s.wantEachOnce(t, ledger, 30, 20*time.Second)
}

// TestALoopThatHangs has the loop of a queue block, in a daemon that is built so that it
// can: the others go on, and the watchdog has it restarted.
func TestALoopThatHangs(t *testing.T) {
	t.Parallel()
	s := boot(t, "hang")
	s.startBroker(t)
	const ledger = "/var/lib/warren/ledger"
	s.configure(t, brokerAt, append(handler("orders", ledger), "WARREN_QUEUES=orders", "HANG_FILE=/var/lib/warren/hang")...)
	s.Run(t, "systemctl", "start", "warren")
	s.Write(t, "/var/lib/warren/hang", 0o644, "")
	s.Write(t, "/etc/systemd/system/warren.service.d/hang.conf", 0o644, "[Service]\nExecStartPre=rm -f /var/lib/warren/hang\n")
	s.Run(t, "systemctl", "daemon-reload")
	began := time.Now()
	rabbittest.Eventually(t, 3*time.Minute, func() bool { return s.property(t, "warren", "NRestarts") != "0" }, "systemd restarts it")
	t.Logf("restarted %v after the loop hung", time.Since(began).Round(time.Second))
	s.publisher(t).send(t, "orders", 10, "0")
	s.wantEachOnce(t, ledger, 10, 30*time.Second)
	journal := s.journal(t, "-u", "warren")
	for _, want := range []string{"systemd's watchdog is left without a sign of life", "the loop of queue orders has been stuck", "pulse.Hang("} {
		if !strings.Contains(journal, want) {
			t.Errorf("the journal lacks %q", want)
		}
	}
}

// TestAMachineThatDies has two machines work one queue, and cuts the power of one with
// work under way.
func TestAMachineThatDies(t *testing.T) {
	t.Parallel()
	first, second := boot(t, ""), boot(t, "")
	machinetest.Connect(t, first.Machine, second.Machine)
	first.startBroker(t)
	const ledger = "/var/lib/warren/ledger"
	first.configure(t, brokerAt, append(handler("orders", ledger), "WARREN_QUEUES=orders")...)
	second.configure(t, strings.Replace(brokerAt, "127.0.0.1", "10.77.0.1", 1), append(handler("orders", ledger), "WARREN_QUEUES=orders")...)
	first.Run(t, "systemctl", "start", "warren")
	second.Run(t, "systemctl", "start", "warren")
	const n = 1200
	first.publisher(t).send(t, "orders", n, "0.3")
	rabbittest.Eventually(t, 30*time.Second, func() bool { return len(second.lines(t, ledger)) > 20 }, "both are at work")
	rabbittest.Eventually(t, 10*time.Second, func() bool { return strings.Contains(second.property(t, "warren", "StatusText"), "8 in flight") }, "work is under way")
	second.Kill(t)
	done := second.lines(t, ledger) // what it did until then may have been acknowledged
	rabbittest.Eventually(t, 2*time.Minute, func() bool { return distinct(append(first.lines(t, ledger), done...)) == n }, "the other machine finishes all of it")
	// What had just been done when the power went may have been done once more.
	t.Logf("%d messages: %d done by the machine that died, %d by the other", n, len(done), len(first.lines(t, ledger)))
}
