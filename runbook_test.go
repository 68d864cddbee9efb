package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// drills are the cases of docs/runbook.md, in its order, with the one command that it names for
// each. A drill brings its case about, and has what that command prints name the cause.
var drills = []struct {
	title, command string
	drill          func(*testing.T)
}{
	{"Nothing is consumed", "warren check", drillNothingIsConsumed},
	{"The queue grows", "warren ps QUEUE", drillTheQueueGrows},
	{"Dead letters pile up", "warren dead groups QUEUE", drillDeadLettersPileUp},
	{"What a processor needs is down", "warren check", drillWhatAProcessorNeedsIsDown},
	{"A poison message", "journalctl -u warren -p warning", drillAPoisonMessage},
	{"An alarm of the broker", "warren check", drillAnAlarmOfTheBroker},
	{"Duplicates", "journalctl MESSAGE_ID_AMQP=ID", drillDuplicates},
	{"A stuck attempt", "warren ps QUEUE", drillAStuckAttempt},
	{"Credentials were rotated", "warren check", drillCredentialsWereRotated},
	{"A machine was lost", "warren ps", drillAMachineWasLost},
	{"A schedule did not fire", "warren check", drillAScheduleDidNotFire},
	{"A certificate has expired", "warren check", drillACertificateHasExpired},
	{"A disk is full", "warren check", drillADiskIsFull},
	{"A clock is wrong", "warren check", drillAClockIsWrong},
}

func TestRunbook(t *testing.T) {
	t.Parallel()
	for _, d := range drills {
		t.Run(d.title, d.drill)
	}
}

// TestRunbookHasADrillForEachCase holds the table and the sections of the page against the
// drills. Whether there are such commands is for the tests of the command line.
func TestRunbookHasADrillForEachCase(t *testing.T) {
	page, err := os.ReadFile("docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	var want, rows, sections []string
	for _, d := range drills {
		want = append(want, d.title+": "+d.command)
	}
	for _, row := range regexp.MustCompile("(?m)^\\| [^|]+ \\| `([^`]+)` \\| \\[([^]]+)\\]\\(#([^)]+)\\) \\|$").FindAllStringSubmatch(string(page), -1) {
		rows = append(rows, row[2]+": "+row[1])
		if anchor := strings.ReplaceAll(strings.ToLower(row[2]), " ", "-"); anchor != row[3] {
			t.Errorf("%s leads to #%s, want #%s", row[2], row[3], anchor)
		}
	}
	if !slices.Equal(rows, want) {
		t.Errorf("the table has\n%q, want the drills\n%q", rows, want)
	}
	for i, section := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(string(page), -1) {
		if sections = append(sections, section[1]); i >= len(drills) || drills[i].title != section[1] {
			t.Errorf("section %d is %q, want those of the drills", i+1, section[1])
		}
	}
	if len(sections) != len(drills) {
		t.Errorf("there are %d sections, want %d", len(sections), len(drills))
	}
}

// shows runs a command until it prints what matches all of these, and returns that.
func shows(t *testing.T, env []string, args []string, want ...string) string {
	t.Helper()
	var stdout, stderr string
	missing := func() []string {
		stdout, stderr, _ = output(t, warren(t, env, args...))
		return slices.DeleteFunc(slices.Clone(want), func(w string) bool { return regexp.MustCompile("(?m)" + w).MatchString(stdout) })
	}
	var lacks []string
	defer func() {
		if t.Failed() {
			t.Logf("warren %s lacks %q; it prints\n%s%s", strings.Join(args, " "), lacks, stdout, stderr)
		}
	}()
	rabbittest.Eventually(t, time.Minute, func() bool { lacks = missing(); return len(lacks) == 0 }, "warren "+strings.Join(args, " ")+" names the cause")
	return stdout
}

// succeeds runs warren until it ends with 0, and returns what it has printed. Daemons have
// a few seconds to obey, which is little on a busy machine; saying it again does no harm.
func succeeds(t *testing.T, env []string, args ...string) string {
	t.Helper()
	var stdout, stderr string
	var status int
	defer func() {
		if status != 0 {
			t.Logf("warren %s: exit status %d, %s%s", strings.Join(args, " "), status, stdout, stderr)
		}
	}()
	rabbittest.Eventually(t, time.Minute, func() bool {
		stdout, stderr, status = output(t, warren(t, env, args...))
		return status == 0
	}, "warren "+strings.Join(args, " ")+" succeeds")
	return stdout
}

// journal is what journalctl selects of what the daemon has logged: what is of that level or
// worse, or of one message.
func (d *process) journal(selects string) string {
	var out strings.Builder
	for line := range strings.Lines(d.log.String()) {
		if strings.Contains(line, selects) || selects == "-p warning" && (strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR")) {
			out.WriteString(line)
		}
	}
	return out.String()
}

func drillNothingIsConsumed(t *testing.T) {
	t.Run("paused and forgotten, and nobody there", drillPaused)
	t.Run("held exclusively", drillHeldExclusively)
	t.Run("wrong virtual host", drillWrongVirtualHost)
}

func drillPaused(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR=", "WARREN_QUEUE_ORDERS_MAX_ATTEMPTS=8")
	d := start(t, env...)
	checks(t, env, 0, "ok     daemons: 1 has answered\n", "ok     plan of orders: 8 attempts within 2m7s, then orders.dead\n", "ok     queue orders: 0 messages ready, 1 consumer\n")

	succeeds(t, env, "pause", "orders", "--yes", "--why", "mail server moves")
	v.Publish(t, "orders", amqp091.Publishing{Body: []byte("{}")})
	v.Publish(t, "orders.dead", amqp091.Publishing{Body: []byte("{}")})
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "orders") == 1 && v.Ready(t, "orders.dead") == 1 }, "both messages wait")
	cause := []string{
		"WARN   consumers of orders: paused for ", ": mail server moves; 1 message ready\n       why:  no daemon takes a message from it until it is resumed\n       cure: warren resume orders\n",
		"WARN   dead letters of orders: 1 message\n", "       cure: warren dead groups orders shows why; then warren dead replay orders, or discard\n",
	}
	checks(t, env, 3, cause...)
	d.signal(t, syscall.SIGTERM)
	checks(t, env, 3, cause...) // nobody is left to ask

	succeeds(t, env, "resume", "orders", "--yes")
	checks(t, env, 3, "WARN   consumers of orders: there are none, and 1 message ready\n", "       cure: systemctl start warren, on a machine whose WARREN_QUEUES has it\n")

	var all []struct {
		Severity, What, Found, Why, Cure string
		Queue                            *struct{ Messages, Consumers int }
	}
	rabbittest.Eventually(t, time.Minute, func() bool {
		stdout, stderr, status := output(t, warren(t, env, "check", "-o", "json"))
		all = nil
		return json.Unmarshal([]byte(stdout), &all) == nil && status == 3 && stderr == "warren: warnings: 2\n"
	}, "check -o json has two warnings")
	warned := 0
	for _, f := range all {
		if f.Severity == "warning" {
			warned++
			if f.What == "" || f.Found == "" || f.Why == "" || f.Cure == "" {
				t.Errorf("a warning says %+v, want what, why and what cures it", f)
			}
		}
		if f.What == "queue orders" && (f.Queue == nil || f.Queue.Messages != 1) {
			t.Errorf("queue orders: got %+v, want 1 message", f.Queue)
		}
	}
	if warned != 2 {
		t.Errorf("got %d warnings of %+v, want 2", warned, all)
	}
}

func drillHeldExclusively(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR=")
	start(t, env...).signal(t, syscall.SIGTERM)
	if _, err := v.Channel(t).Consume("orders", "", false, true, false, false, nil); err != nil {
		t.Fatal(err)
	}
	checks(t, env, 3, "WARN   consumers of orders: 1, of which 0 answer: the others are other programs", "one that consumes exclusively", "       cure: rabbitmqctl list_consumers")
}

func drillWrongVirtualHost(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR=")
	env[0] += "-other"
	checks(t, env, 1, "FAULT  node "+v.Node.Addr()+": ", "virtual host")
}

// More comes than two slots do.
func drillTheQueueGrows(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "sleep 1000", "WARREN_QUEUE_ORDERS_CONCURRENCY=2")
	start(t, env...)
	v.PublishN(t, "orders", 100, withID("ID"))
	shows(t, env, []string{"ps", "orders"}, ` 2/2 +\S+ \S+ +orders$`, `^! orders: all 2 slots \(daemons: 1\) are busy, and 9\d messages ready: more comes than is done$`)
	shows(t, env, []string{"check"}, `^note   work of orders: all 2 slots `)
}

// A deploy has all messages fail, and the next one works.
func drillDeadLettersPileUp(t *testing.T) {
	t.Parallel()
	const n = 500
	v := rabbittest.NewVhost(t)
	dir := t.TempDir()
	env := commandQueue(v, "orders", `read -r id; test -e `+dir+`/mended || { echo "order $id: no such column: price" >&2; exit 65; }; echo $id >> `+dir+`/ledger`)
	start(t, env...)
	v.PublishN(t, "orders", n, withID("ID\n"))
	rabbittest.Eventually(t, 2*time.Minute, func() bool { return v.Ready(t, "orders.dead") == n }, "all are dead")
	groups := shows(t, env, []string{"dead", "groups", "orders"}, `^[0-9a-f]{8}  500 .* permanent `, `^[0-9a-f]{8}: exit status 65: order <n>: no such column: price$`)
	if strings.Count(groups, "\n") != 3 {
		t.Errorf("groups:\n%s\nwant one cause", groups)
	}
	if err := os.WriteFile(filepath.Join(dir, "mended"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	group := strings.Fields(strings.Split(groups, "\n")[1])[0]
	stdout, stderr, status := output(t, warren(t, env, "dead", "replay", "orders", "--filter", "group = "+group, "--canary", "5", "--watch", "2s", "--yes"))
	if status != 0 || stdout != "replayed 500 dead letters of orders\n" {
		t.Errorf("replay: exit status %d, %s%s", status, stdout, stderr)
	}
	rabbittest.Eventually(t, 2*time.Minute, func() bool { return v.Ready(t, "orders")+v.Unacked(t, "orders") == 0 }, "all are worked")
	eachOnce(t, lines(t, filepath.Join(dir, "ledger")), n)
	if dead := v.Ready(t, "orders.dead"); dead != 0 {
		t.Errorf("%d are dead, want none", dead)
	}
}

// The daemon says itself that what it depends on is down.
func drillWhatAProcessorNeedsIsDown(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "exit 69", "WARREN_ADMIN_ADDR=")
	d := start(t, env...)
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "m", Body: []byte("{}")})
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "n", Body: []byte("{}")})
	var stdout string
	rabbittest.Eventually(t, time.Minute, func() bool {
		stdout, _, _ = output(t, warren(t, env, "check"))
		return strings.Contains(stdout, "WARN   daemons: ") && strings.Contains(stdout, " has orders braked for ") && strings.Contains(stdout, "exit status 69")
	}, "check says that the queue is braked, and why")
	d.signal(t, syscall.SIGTERM)
}

// A message kills the daemon, and the next one, as systemd would start them.
func drillAPoisonMessage(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	harmless := filepath.Join(t.TempDir(), "harmless")
	env := commandQueue(v, "orders", `test -e `+harmless+` || kill -9 $PPID`)
	start(t, env...).signal(t, syscall.SIGTERM) // declares the queue
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "poison"})
	var warnings string
	for starts := 0; !strings.Contains(warnings, "may end the process"); starts++ {
		if starts == 20 {
			t.Fatalf("after %d starts the warnings are\n%s", starts, warnings)
		}
		d := launch(t, env...)
		<-d.ended
		warnings = d.journal("-p warning")
	}
	if !regexp.MustCompile(`level=WARN msg="the message was redelivered several times and may end the process, .* queue=orders .*message_id=poison .*delivery_count=\d+`).MatchString(warnings) {
		t.Errorf("the warnings are\n%s\nwant the message", warnings)
	}
	if err := os.WriteFile(harmless, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, env...)
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "orders")+v.Unacked(t, "orders") == 0 }, "it is worked")
	d.signal(t, syscall.SIGTERM)
}

// Alarms are of the whole node.
func drillAnAlarmOfTheBroker(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewNode(t)
	env := commandQueue(v, "orders", "cat")
	env = append(env, "WARREN_ADMIN_ADDR=")
	start(t, env...).signal(t, syscall.SIGTERM)
	for name, alarm := range map[string]func(bool) error{"memory": v.Node.MemoryAlarm, "disk": v.Node.DiskAlarm} {
		if err := alarm(true); err != nil {
			t.Fatal(err)
		}
		checks(t, env, 1, "FAULT  publishing: the broker has an alarm, it is low on "+name+", and takes no messages; rabbitmq-diagnostics alarms ")
		if err := alarm(false); err != nil {
			t.Fatal(err)
		}
	}
	checks(t, env, 0, "ok     publishing: permitted\n")
}

// A worker is killed when it has done its work and not yet said so; and a publisher has
// published a message twice.
func drillDuplicates(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	dir := t.TempDir()
	env := commandQueue(v, "orders", `echo $WARREN_MESSAGE_ID >> `+dir+`/ledger; test $WARREN_MESSAGE_ID = twice -o -e `+dir+`/killed || { touch `+dir+`/killed; kill -9 $PPID; }`)
	first := start(t, env...)
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "cut", Body: []byte("{}")})
	<-first.ended
	second := start(t, env...)
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "twice", Body: []byte("{}")})
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "twice", Body: []byte("{}")})
	rabbittest.Eventually(t, time.Minute, func() bool {
		return len(lines(t, dir+"/ledger")) == 4 && v.Ready(t, "orders")+v.Unacked(t, "orders") == 0
	}, "all are worked")
	if got := second.journal("message_id=cut "); !strings.Contains(got, "redelivered: the worker that had the message before was lost or returned it; what that did may be done twice") {
		t.Errorf("of the message whose worker was killed the journal has\n%s", got)
	}
	if got := second.journal("message_id=twice"); got != "" {
		t.Errorf("of the message that was published twice the journal has\n%s\nwant nothing: nobody was cut off", got)
	}
}

func drillAStuckAttempt(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", `test $WARREN_MESSAGE_ID = quick || sleep 1000`)
	start(t, env...)
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "order-3"}, amqp091.Publishing{MessageId: "quick"})
	shows(t, env, []string{"ps", "orders"}, ` 1/\d+ +\S+ order-3 +orders$`)
	host, _ := os.Hostname()
	out, errs, status := output(t, warren(t, env, "cancel", "order-3", "--why=it hangs", "--yes", "--wait=20s"))
	if status != 0 || !strings.HasSuffix(out, ": done\n") {
		t.Errorf("cancel: exit status %d, %s%s", status, out, errs)
	}
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "orders.dead") == 1 }, "it is dead")
	shows(t, env, []string{"dead", "list", "orders"}, `^order-3 +\S+ +1 +cancelled +cancelled by guest \(`+regexp.QuoteMeta(host))
}

// A password is changed, and the daemon knows the old one.
func drillCredentialsWereRotated(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	user := "drill-" + strings.ToLower(v.Name)
	env := append(commandQueue(v, "orders", "cat"), "WARREN_AMQP_URL="+v.AddUser(t, user, "0utd4ted", ".*", ".*", ".*"))
	shows(t, env, []string{"check"}, `^(ok  |note)   node `)
	v.Node.ChangePassword(t, user, "new")
	got := shows(t, env, []string{"check"}, `^FAULT  node `+v.Node.Addr()+`: .*refused the user name or password`)
	if strings.Contains(got, "0utd4ted") {
		t.Errorf("check tells the password:\n%s", got)
	}
}

// The power of a machine goes: at first nobody is told.
func drillAMachineWasLost(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	proxy := rabbittest.NewProxy(t, v.Node.Addr())
	env := commandQueue(v, "orders", "sleep 1000", "WARREN_QUEUE_ORDERS_CONCURRENCY=1", "WARREN_QUEUE_ORDERS_PREFETCH=1")
	lost := start(t, append(env, "WARREN_AMQP_URL="+v.URLAt(proxy.Addr)+"?heartbeat=60")...) // it shall not be found out before it is looked for
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "order-3"})
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Unacked(t, "orders") == 1 }, "it works")
	start(t, env...)
	shows(t, env, []string{"ps"}, fmt.Sprintf(`^\S+/%d .* 1/1 +\S+ order-3 +orders$`, lost.Process.Pid))
	proxy.Stall(rabbittest.BothWays)
	shows(t, env, []string{"ps", "orders"}, `^! orders has 2 consumers, of which 1 answer: .* on a machine that was lost, which the broker finds out within 20 s$`)
	proxy.Refuse() // as the broker does then
	rabbittest.Eventually(t, time.Minute, func() bool {
		got, _, _ := output(t, warren(t, env, "ps", "orders"))
		return regexp.MustCompile(`(?m) 1/1 +\S+ order-3 +orders$`).MatchString(got) && !strings.Contains(got, fmt.Sprintf("/%d ", lost.Process.Pid)) && !strings.Contains(got, "!")
	}, "ps prints what is left, and that all is well")
}

func drillAScheduleDidNotFire(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	daemon := commandQueue(v, "orders", "cat")
	env := append(slices.Clone(daemon), "WARREN_SCHEDULES=nightly,cleanup", "WARREN_SCHEDULE_NIGHTLY_CRON=0 2 * * *", "WARREN_SCHEDULE_NIGHTLY_QUEUE=orders",
		"WARREN_SCHEDULE_CLEANUP_EVERY=1s", "WARREN_SCHEDULE_CLEANUP_QUEUE=elsewhere")
	forgotten := start(t, daemon...)
	shows(t, env, []string{"check"}, `^ok     schedule nightly: next at \S+T02:00:00Z, .* to queue orders$`,
		`^WARN   schedule nightly: no daemon that has answered has it$`, `^FAULT  queue elsewhere: is missing; `)
	forgotten.signal(t, syscall.SIGTERM)
	start(t, env...)
	shows(t, env, []string{"check"}, `^ok     schedule nightly: \S+/\d+ fires it, the next for \S+T02:00:00Z$`, `^WARN   daemons: \S+/\d+ cannot fire schedule cleanup: .*elsewhere`)
}

func drillACertificateHasExpired(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	addr, ca := expired(t)
	env := append(commandQueue(v, "orders", "cat"), "WARREN_AMQP_URL=amqps://guest:guest@"+addr+"/?cacertfile="+ca)
	shows(t, env, []string{"check"}, `^FAULT  node `+addr+`: the node's TLS certificate is not valid now: .*expired.*; have it renewed`)
	env = []string{"WARREN_AMQP_URL=" + v.URL, "WARREN_QUEUES=hooks", "WARREN_QUEUE_HOOKS_PROCESSOR=webhook", "WARREN_QUEUE_HOOKS_URL=https://" + addr, "WARREN_QUEUE_HOOKS_CA_FILE=" + ca}
	shows(t, env, []string{"check"}, `^FAULT  processor of hooks: TLS with `+addr+`: .*certificate has expired`)
}

// expired is a server whose certificate was valid until an hour ago, and the file of who
// signed it.
func expired(t *testing.T) (addr, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a drill"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1)) // shakes hands, which the other end breaks off
			_ = conn.Close()
		}
	}()
	return listener.Addr().String(), ca
}

// A Maildir is on a small file system of the daemon's own, which is full.
func drillADiskIsFull(t *testing.T) {
	t.Parallel()
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	v := rabbittest.NewVhost(t)
	dir := t.TempDir()
	alone := "unshare --mount"
	if os.Getuid() != 0 {
		alone = "unshare --user --map-root-user --mount"
	}
	script := filepath.Join(t.TempDir(), "daemon")
	content := fmt.Sprintf("#!/bin/sh\nexec %s sh -c 'mount -t tmpfs -o size=64k tmpfs %[2]s && mkdir %[2]s/mail; head -c 65536 /dev/zero > %[2]s/full; exec %[3]s'\n", alone, dir, program)
	writeProgram(t, script, content)
	env := []string{"WARREN_AMQP_URL=" + v.URL, "WARREN_QUEUES=mails", "WARREN_QUEUE_MAILS_PROCESSOR=email", "WARREN_QUEUE_MAILS_MAILDIR=" + dir + "/mail", "WARREN_QUEUE_MAILS_FROM=shop@example.com", "WARREN_ADMIN_ADDR="}
	d := launchProgram(t, script, nil, env...)
	d.consumes(t)
	v.PublishN(t, "mails", 20, withID(`{"to": "c-ID@example.net", "subject": "Order ID", "text": "Thank you."}`))
	if err := os.Mkdir(filepath.Join(dir, "mail"), 0o700); err != nil { // for the check, which has a disk with room
		t.Fatal(err)
	}
	shows(t, env, []string{"check"}, `^WARN   daemons: \S+/\d+ has mails braked for .*no space left on device`)
	if dead := v.Ready(t, "mails.dead"); dead != 0 {
		t.Errorf("%d are dead, want none", dead)
	}
}

// A daemon says that it is an hour later than it is.
func drillAClockIsWrong(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "cat")
	start(t, env...)
	ch := v.Channel(t)
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err == nil {
		err = ch.QueueBind(q.Name, "", "warren.control", false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	requests, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for request := range requests { // closed with the channel
			body, _ := json.Marshal(map[string]any{"daemon": map[string]any{"host": "vm2", "pid": 4711, "began": time.Now()}, "status": map[string]any{"at": time.Now().Add(time.Hour)}})
			_ = ch.PublishWithContext(t.Context(), "", request.ReplyTo, false, false, amqp091.Publishing{Body: body})
		}
	}()
	defer func() {
		_ = ch.Close()
		<-ended
	}()
	shows(t, env, []string{"check"}, `^ok     clock of this machine: as the broker's$`, `^WARN   clock of vm2/4711: (1h0m|59m5)\ds ahead of the broker's$`)
}
