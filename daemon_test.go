package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/freeport"
	"github.com/warrenmq/warren/internal/logtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// built is the program as operators get it, without the race detector: for what is
// measured, and for what starts many processes.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "warren-test-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // for a daemon of another user
		return "", err
	}
	path := filepath.Join(dir, "warren")
	build := exec.Command("go", "build", "-trimpath", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does
	out, err := build.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, err
})

// A process is warren run as a process of its own.
type process struct {
	*exec.Cmd
	log   logtest.Buffer
	ended chan struct{} // closed when it has
}

// start starts the daemon with these variables, and waits until it consumes. The
// end of the test kills it, if it runs still.
func start(t *testing.T, env ...string) *process {
	t.Helper()
	d := launch(t, env...)
	d.consumes(t)
	return d
}

// consumes waits until it consumes a queue, or has ended.
func (d *process) consumes(t *testing.T) {
	t.Helper()
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		return d.hasEnded() || strings.Contains(d.log.String(), "msg=consuming")
	}, "the daemon consumes")
}

// launch starts the daemon as start does, and waits for nothing.
func launch(t *testing.T, env ...string) *process {
	t.Helper()
	return launchAs(t, nil, env...)
}

// launchAs is launch as the user with these ids; nil is who runs the test.
func launchAs(t *testing.T, who *syscall.Credential, env ...string) *process {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return launchProgram(t, path, who, env...)
}

// launchProgram does that with another program.
func launchProgram(t *testing.T, path string, who *syscall.Credential, env ...string) *process {
	t.Helper()
	cmd := exec.Command(path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	return launchCommand(t, cmd, env...)
}

// launchCommand does that by a command.
func launchCommand(t *testing.T, cmd *exec.Cmd, env ...string) *process {
	t.Helper()
	d := &process{Cmd: cmd, ended: make(chan struct{})}
	d.Env = append([]string{"PATH=" + os.Getenv("PATH"), "WARREN_LOG_FORMAT=text", "WARREN_ADMIN_ADDR="}, env...)
	d.Stderr = &d.log
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.Wait() // the exit status is in ProcessState
		close(d.ended)
	}()
	t.Cleanup(func() {
		_ = d.Process.Kill()
		<-d.ended
		if t.Failed() {
			t.Logf("the end of the daemon's log:\n%.4000s", d.log.String()[max(0, len(d.log.String())-4000):])
		}
	})
	return d
}

func (d *process) hasEnded() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

// signal sends the signal and returns the time that the daemon takes to end.
func (d *process) signal(t *testing.T, signals ...os.Signal) time.Duration {
	t.Helper()
	start := time.Now()
	for _, s := range signals {
		if err := d.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if s != signals[len(signals)-1] {
			rabbittest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(d.log.String(), "stopping") }, "the daemon is stopping")
		}
	}
	select {
	case <-d.ended:
	case <-time.After(3 * time.Minute):
		t.Fatal("the daemon has not ended after three minutes")
	}
	return time.Since(start)
}

// commandQueue are the variables for a queue of that name whose handler is a shell
// script.
func commandQueue(v *rabbittest.Vhost, name, script string, more ...string) []string {
	prefix := "WARREN_QUEUE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "_"
	return append([]string{
		"WARREN_AMQP_URL=" + v.URL,
		"WARREN_QUEUES=" + name,
		prefix + "PROCESSOR=command",
		prefix + "COMMAND=/bin/sh -c '" + script + "'",
	}, more...)
}

// lines are those of a file that handlers append to.
func lines(t *testing.T, path string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Fields(string(content))
}

func withID(body string) func(int) amqp091.Publishing {
	return func(i int) amqp091.Publishing {
		id := strconv.Itoa(i)
		return amqp091.Publishing{MessageId: id, Body: []byte(strings.ReplaceAll(body, "ID", id)), DeliveryMode: amqp091.Persistent}
	}
}

// eachOnce checks that there are n ids, each of them once.
func eachOnce(t *testing.T, ids []string, n int) {
	t.Helper()
	seen := make(map[string]int)
	for _, id := range ids {
		seen[id]++
	}
	if len(seen) != n || len(ids) != n {
		t.Errorf("%d messages were done, %d times in all, want %d of them once each", len(seen), len(ids), n)
	}
}

func TestTenThousandCommands(t *testing.T) {
	t.Parallel()
	const n = 10_000
	v := rabbittest.NewVhost(t)
	ledger := filepath.Join(t.TempDir(), "ledger")
	begun := time.Now()
	d := start(t, commandQueue(v, "commands", "read -r id; echo $id >> "+ledger)...)
	v.PublishN(t, "commands", n, withID("ID\n"))
	rabbittest.Eventually(t, 20*time.Minute, func() bool { return v.Ready(t, "commands")+v.Unacked(t, "commands") == 0 }, "the queue is empty")
	eachOnce(t, lines(t, ledger), n)
	t.Logf("%d commands in %v", n, time.Since(begun).Round(time.Millisecond))
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
}

func wantExit(t *testing.T, d *process, status int) {
	t.Helper()
	if got := d.ProcessState.ExitCode(); got != status {
		t.Errorf("exit status %d (%v), want %d", got, d.ProcessState, status)
	}
}

func TestTenThousandEmails(t *testing.T) {
	t.Parallel()
	const n = 10_000
	v := rabbittest.NewVhost(t)
	server := newMailServer(t)
	begun := time.Now()
	d := start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=emails", "WARREN_QUEUE_EMAILS_PROCESSOR=email",
		"WARREN_QUEUE_EMAILS_SMTP_URL=smtp://"+server.addr+"?tls=none", "WARREN_QUEUE_EMAILS_FROM=shop@example.com")
	v.PublishN(t, "emails", n, withID(`{"to": "c-ID@example.net", "subject": "Order ID", "text": "Thank you."}`))
	rabbittest.Eventually(t, 20*time.Minute, func() bool { return v.Ready(t, "emails")+v.Unacked(t, "emails") == 0 }, "the queue is empty")
	eachOnce(t, server.subjects(), n)
	t.Logf("%d mails in %v over %d connections at once", n, time.Since(begun).Round(time.Millisecond), server.connections())
	if c := server.connections(); c > 8 {
		t.Errorf("%d connections at once for a concurrency of 8", c)
	}
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
}

// A mailServer takes every mail and keeps its subject.
type mailServer struct {
	addr       string
	mu         sync.Mutex
	got        []string
	open, most int // connections, at this moment and at once
}

func newMailServer(t *testing.T) *mailServer {
	t.Helper()
	return serveMail(t, listen(t))
}

// listen listens on a port that stays free when the listener is closed.
func listen(t *testing.T) net.Listener {
	t.Helper()
	port, err := freeport.Port()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := freeport.Listen(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func serveMail(t *testing.T, listener net.Listener) *mailServer {
	t.Helper()
	m := &mailServer{addr: listener.Addr().String()}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.open++
		m.most = max(m.most, m.open)
		return mailSession{m}, nil
	}))
	server.Domain = "localhost"
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until it is closed
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return m
}

func (m *mailServer) subjects() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.got...)
}

// connections is how many there were at once, at most.
func (m *mailServer) connections() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}

type mailSession struct{ server *mailServer }

func (mailSession) Reset()                               {}
func (mailSession) Mail(string, *smtp.MailOptions) error { return nil }
func (mailSession) Rcpt(string, *smtp.RcptOptions) error { return nil }

func (s mailSession) Logout() error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.open--
	return nil
}

func (s mailSession) Data(r io.Reader) error {
	msg, err := mail.ReadMessage(r)
	if err != nil {
		return err
	}
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.got = append(s.server.got, msg.Header.Get("Subject"))
	return nil
}

// TestMessageThatKillsTheDaemon has one of its handlers kill the daemon, which is
// started again each time, as systemd would. The message ends as a dead letter, and
// no other does.
func TestMessageThatKillsTheDaemon(t *testing.T) {
	t.Parallel()
	const neighbours = 60
	v := rabbittest.NewVhost(t)
	ledger := filepath.Join(t.TempDir(), "ledger")
	env := commandQueue(v, "risky", `read -r id; if [ $id = 20 ]; then kill -9 $PPID; exit 1; fi; sleep 0.05; echo $id >> `+ledger)
	starts := 0
	for published := false; ; {
		d := start(t, env...)
		starts++
		if !published {
			v.PublishN(t, "risky", neighbours, withID("ID\n"))
			published = true
		}
		over := func() bool { return v.Ready(t, "risky.dead") == 1 && v.Ready(t, "risky")+v.Unacked(t, "risky") == 0 }
		rabbittest.Eventually(t, 60*time.Second, func() bool { return d.hasEnded() || over() }, "the daemon is killed or all is done")
		if !d.hasEnded() {
			d.signal(t, syscall.SIGTERM)
			wantExit(t, d, 0)
			break
		}
		if starts > 60 {
			t.Fatalf("the message has killed the daemon %d times", starts)
		}
	}
	t.Logf("the daemon was killed %d times", starts-1)
	for _, dead := range v.Drain(t, "risky.dead") {
		if dead.MessageId != "20" {
			t.Errorf("message %s was dead-lettered", dead.MessageId)
		}
	}
	seen := make(map[string]bool)
	for _, id := range lines(t, ledger) {
		seen[id] = true
	}
	if len(seen) != neighbours-1 {
		t.Errorf("%d neighbours were done, want %d", len(seen), neighbours-1)
	}
}

func TestSIGTERMFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	dir := t.TempDir()
	d := start(t, commandQueue(v, "slow", "touch "+dir+"/started; while [ -e "+dir+"/started -a ! -e "+dir+"/stopping ]; do sleep 0.1; done; touch "+dir+"/finished", "WARREN_QUEUE_SLOW_CONCURRENCY=1", "WARREN_QUEUE_SLOW_PREFETCH=5", "WARREN_SHUTDOWN_TIMEOUT=10m")...)
	v.PublishN(t, "slow", 5, withID(""))
	rabbittest.Eventually(t, 5*time.Second, func() bool { return exists(dir+"/started") && v.Unacked(t, "slow") == 5 }, "the first is under way, the others are handed out")
	if err := d.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(d.log.String(), "stopping") }, "the daemon is stopping")
	if err := os.WriteFile(dir+"/stopping", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	took := d.signal(t)
	wantExit(t, d, 0)
	if !exists(dir+"/finished") || took > rabbittest.Soon {
		t.Errorf("ended after %v, finished: %v", took, exists(dir+"/finished"))
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "slow") == 4 }, "the other four are back in the queue")
	if want := "msg=stopped finished=1 returned=4 abandoned=0"; !strings.Contains(d.log.String(), want) {
		t.Errorf("the log lacks %q", want)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestSIGTERMCutsShortWhatTakesTooLong(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	dir := t.TempDir()
	d := start(t, commandQueue(v, "endless", `trap "" TERM; touch `+dir+`/started; sleep 600`, "WARREN_SHUTDOWN_TIMEOUT=1s")...)
	v.PublishN(t, "endless", 1, withID(""))
	rabbittest.Eventually(t, 5*time.Second, func() bool { return exists(dir + "/started") }, "the work is under way")
	took := d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 2)
	if took < time.Second || took > rabbittest.Soon {
		t.Errorf("ended after %v, want 1 s and little more", took)
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "endless") == 1 }, "the message is back in the queue")
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	for name, cmd := range map[string]*exec.Cmd{
		"as it is": exec.Command(path),
		// As a shell does for what it runs in the background.
		"with SIGINT ignored": exec.Command("/bin/sh", "-c", `trap "" INT; exec "$0"`, path),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := rabbittest.NewVhost(t)
			dir := t.TempDir()
			d := launchCommand(t, cmd, commandQueue(v, "endless", "touch "+dir+"/started; sleep 60")...)
			d.consumes(t)
			v.PublishN(t, "endless", 1, withID(""))
			rabbittest.Eventually(t, 5*time.Second, func() bool { return exists(dir + "/started") }, "the work is under way")
			took := d.signal(t, syscall.SIGTERM, syscall.SIGINT)
			status, ok := d.ProcessState.Sys().(syscall.WaitStatus)
			// By the signal, or as a shell says of one: whoever runs the tests may ignore it, too.
			died := ok && (status.Signaled() && cmd.Path == path || status.ExitStatus() == 128+int(syscall.SIGINT))
			if !died || took > rabbittest.Soon {
				t.Errorf("ended after %v with %v, want the signal at once", took, d.ProcessState)
			}
			rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "endless") == 1 }, "the message is back in the queue")
		})
	}
}

func TestIdleDaemonEndsAtOnce(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	d := start(t, commandQueue(v, "idle", "true")...)
	took := d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
	if took > rabbittest.Soon {
		t.Errorf("ended after %v, want soon", took)
	}
}

// TestMemoryStaysBounded drains a backlog of 300,000 messages of 1 KiB. What of the
// program's own file is resident is left out: it is the kernel that decides on that.
func TestMemoryStaysBounded(t *testing.T) {
	const n = 300_000
	v := rabbittest.NewVhost(t)
	env := []string{"WARREN_AMQP_URL=" + v.URL, "WARREN_QUEUES=backlog", "WARREN_QUEUE_BACKLOG_PROCESSOR=log", "WARREN_QUEUE_BACKLOG_PREFETCH=100", "WARREN_LOG_LEVEL=warn", "WARREN_ADMIN_ADDR=127.0.0.1:0"}
	start(t, append(env, "WARREN_LOG_LEVEL=info", "WARREN_ADMIN_ADDR=")...).signal(t, syscall.SIGTERM) // it declares the queue
	body := bytes.Repeat([]byte("x"), 1024)
	v.PublishN(t, "backlog", n, func(int) amqp091.Publishing { return amqp091.Publishing{Body: body, DeliveryMode: amqp091.Persistent} })

	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = env
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var own int64
	rabbittest.Eventually(t, 20*time.Minute, func() bool {
		own = max(own, memory(t, cmd.Process.Pid, "RssAnon"))
		return v.Ready(t, "backlog")+v.Unacked(t, "backlog") == 0
	}, "the queue is empty")
	took := time.Since(begun)
	peak := peakResident(t, cmd.Process.Pid)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	mib := func(bytes int64) float64 { return float64(bytes) / (1 << 20) }
	t.Logf("%d messages in %v, at most %.1f MiB resident, and %.1f of its own", n, took.Round(time.Millisecond), mib(peak), mib(own))
	if own > 20<<20 { // 11 as a rule
		t.Errorf("at most %.1f MiB of its own were resident, want less than 20", mib(own))
	}
}

// peakResident is the most memory that the process has had resident, in bytes.
func peakResident(t *testing.T, pid int) int64 {
	t.Helper()
	return memory(t, pid, "VmHWM")
}

// memory is a field of what the kernel says of the process, in bytes.
func memory(t *testing.T, pid int, field string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no %s in /proc/PID/status", field)
	return 0
}

func TestPublishAndCheckCommands(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR=") // others may have the default

	stdout, _, status := output(t, warren(t, env, "check"))
	if status != 0 || !strings.Contains(stdout, "queue orders: is missing; warren declares it when it starts") {
		t.Errorf("check before the first start: exit status %d and\n%s", status, stdout)
	}
	if _, stderr, status := output(t, warren(t, env, "publish", "orders", "{}")); status != 1 || !strings.Contains(stderr, "there is no queue orders") {
		t.Errorf("publish to a missing queue: exit status %d and %q", status, stderr)
	}
	start(t, env...).signal(t, syscall.SIGTERM)

	stdout, stderr, status := output(t, warren(t, env, "publish", "orders", `{"id": 7}`, "--message-id", "o-7", "-H", "x-delay=5", "--type", "order"))
	if status != 0 || stdout != "o-7\n" {
		t.Errorf("publish: exit status %d, %q and %q", status, stdout, stderr)
	}
	stdout, _, status = output(t, warren(t, env, "check"))
	if status != 3 || !strings.Contains(stdout, "queue orders: 1 message ready, 0 consumers") || !strings.Contains(stdout, "WARN   consumers of orders: there are none, and 1 message ready") {
		t.Errorf("check: exit status %d and\n%s", status, stdout)
	}
	got := v.Drain(t, "orders")[0]
	if got.Headers["x-delay"] != int64(5) || got.Type != "order" || string(got.Body) != `{"id": 7}` {
		t.Errorf("published %+v", got)
	}

	env[0] = "WARREN_AMQP_URL=" + strings.Replace(v.URL, "guest:guest", "guest:hunter2", 1)
	for _, args := range [][]string{{"check"}, {"run"}, {"publish", "orders", "{}"}} {
		stdout, stderr, status := output(t, warren(t, env, args...))
		if all := stdout + stderr; status != 1 || !strings.Contains(all, "refused the user name or password") || strings.Contains(all, "hunter2") {
			t.Errorf("warren %q with a wrong password: exit status %d and\n%s", args, status, all)
		}
	}
}
