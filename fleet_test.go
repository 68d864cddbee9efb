package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/internal/logtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestPauseFromTheCommandLine pauses a queue of two daemons and resumes it.
func TestPauseFromTheCommandLine(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := []string{"WARREN_AMQP_URL=" + v.URL}
	daemon := append(env, "WARREN_QUEUES=emails", "WARREN_QUEUE_EMAILS_PROCESSOR=log", "WARREN_ADMIN_ADDR=127.0.0.1:0")
	first := start(t, daemon...)
	start(t, daemon...)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Consumers(t, "emails") == 2 }, "both consume")
	want := func(status int, stdout, stderr string, args ...string) {
		t.Helper()
		var out, errs string
		var got int
		defer func() {
			if t.Failed() {
				t.Logf("%q: got status %d, output %q and standard error %q; want %d, %q, %q", args, got, out, errs, status, stdout, stderr)
			}
		}()
		rabbittest.Eventually(t, time.Minute, func() bool { // daemons have a few seconds, which is little on a busy machine
			out, errs, got = output(t, warren(t, env, args...))
			return got == status && regexp.MustCompile("^"+stdout+"$").MatchString(out) && regexp.MustCompile("^"+stderr+"$").MatchString(errs)
		}, "warren "+strings.Join(args, " ")+" says so")
	}
	want(1, "", "warren: there is no queue emials: check the name\n", "pause", "emials", "--yes")
	want(1, `(?s)DAEMON .*! there is no queue emials\n`, `(?s).*warren: there is no queue emials: check its name, and the virtual host of WARREN_AMQP_URL\n`, "ps", "emials")
	want(1, "", `warren: pause emails \(2 consumers, 0 messages ready\) until resumed: there is no terminal to ask on; say --yes, or --dry-run\n`, "pause", "emails")
	want(0, `pause emails \(2 consumers, 0 messages ready\) for 1h0m0s\n`, "", "pause", "emails", "--for=1h", "--dry-run")
	want(0, `emails: not paused\n`, "", "resume", "emails", "--yes")
	want(0, `emails: paused for 1h0m0s, nobody takes messages; 0 messages ready\n`, "", "pause", "emails", "--for=1h", "--why=mail server\x1b moves", "--yes")
	v.Publish(t, "emails", amqp091.Publishing{Body: []byte("{}")})
	rabbittest.Eventually(t, time.Minute, func() bool {
		status, body := fetch(t, first.adminURL(t)+"/readyz")
		return status == http.StatusOK && strings.Contains(body, `{"name":"emails","ready":true,"paused":"for `) && strings.Contains(body, `: mail server\u001b moves"`)
	}, "/readyz says that it is ready, and who has paused it and why")
	for gauge, is := range map[string]string{"warren_queue_paused": "1", "warren_queue_consuming": "0"} {
		rabbittest.Eventually(t, time.Minute, func() bool {
			_, metrics := fetch(t, first.adminURL(t)+"/metrics")
			value := regexp.MustCompile(gauge + `\{.*warren_queue="emails".*\} (\d)`).FindStringSubmatch(metrics)
			return len(value) == 2 && value[1] == is
		}, gauge+" is "+is)
	}
	want(0, `resume emails \(paused for \S+ by guest \(\S+\) until \S+: mail server  moves\)\n`, "", "resume", "emails", "--dry-run")
	// A daemon has two for a moment, when it replaces its first by one with its own prefetch.
	want(0, `emails: (resumed; [1-4] consumers?, \d messages? ready|not paused)\n`, "", "resume", "emails", "--yes")
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "emails") == 0 && v.Consumers(t, "emails") == 2 }, "both work again")

	// What obeys somebody else goes on, and that is said.
	ch := v.Channel(t)
	if _, err := ch.Consume("emails", "", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	want(3, `emails: paused until resumed, but 1 consumer is left: not Warren, older than this, or not told by WARREN_CONTROL_USERS to obey guest; 0 messages ready\n`,
		"warren: some still take messages\n", "pause", "emails", "--yes")
}

// However long somebody thinks at a question, nothing runs out meanwhile: no connection is held,
// and no time counts.
func TestAQuestionHoldsNoConnection(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=emails", "WARREN_QUEUE_EMAILS_PROCESSOR=log", "WARREN_ADMIN_ADDR=")
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Consumers(t, "emails") == 1 }, "it consumes")
	proxy := rabbittest.NewProxy(t, v.Node.Addr())
	for _, test := range []struct{ args, want string }{
		{"pause emails", "emails: paused until resumed"},
		{"resume emails", "emails: resumed"},
		{"level debug --all", ": done"},
	} {
		tty, other := terminal(t)
		var out, errs logtest.Buffer
		cmd := warren(t, []string{"WARREN_AMQP_URL=" + v.URLAt(proxy.Addr)}, strings.Fields(test.args)...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, &out, &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		rabbittest.Eventually(t, time.Minute, func() bool { return strings.Contains(errs.String(), "[y/N]") }, test.args+" asks")
		proxy.Cut()
		if _, err := io.WriteString(other, "y\n"); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: got %v, output %q and standard error %q", test.args, err, out.String(), errs.String())
		}
	}
}

// fleetSize is how many daemons are run as processes: 4, or WARREN_TEST_FLEET.
func fleetSize(t *testing.T) int {
	t.Helper()
	text := os.Getenv("WARREN_TEST_FLEET")
	if text == "" {
		return 4
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFleetOfProcesses sees a fleet, steers it, and measures how long that takes.
func TestFleetOfProcesses(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := []string{"WARREN_AMQP_URL=" + v.URL}
	size := fleetSize(t)
	var daemons []*process
	for i := range size {
		settings := append(env, "WARREN_QUEUES=emails", "WARREN_QUEUE_EMAILS_PROCESSOR=log", "WARREN_ADMIN_ADDR=")
		if i == 0 {
			settings = append(settings, "WARREN_QUEUE_EMAILS_MAX_ATTEMPTS=3")
		}
		daemons = append(daemons, start(t, settings...))
	}
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Consumers(t, "emails") == size }, "all consume")
	var out string
	var took time.Duration
	row := regexp.MustCompile(`(?m)^\S+/\d+ +\S+ +\d+[sm] +127\.0\.0\.1:\d+ +0/8 +- +emails$`)
	ways := regexp.MustCompile(`(?m)^! emails is configured in 2 ways: [0-9a-f]{8} on \S+/\d+; [0-9a-f]{8} on `)
	rabbittest.Eventually(t, time.Minute, func() bool {
		var errs string
		var status int
		begun := time.Now()
		out, errs, status = output(t, warren(t, env, "ps"))
		took = time.Since(begun)
		return status == 0 && errs == "" && strings.Count(out, "\n") == size+2 && strings.HasPrefix(out, "DAEMON ") &&
			len(row.FindAllString(out, -1)) == size && ways.MatchString(out)
	}, "all answer, and are shown")
	t.Logf("ps of %d daemons took %v", size, took.Round(time.Millisecond))
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "!") && len([]rune(line)) > 81 {
			t.Errorf("a row has more than 80 characters: %q", line)
		}
	}
	lines, _, _ := output(t, warren(t, env, "ps", "-o", "jsonl"))
	for line := range strings.Lines(lines) {
		var a struct {
			Daemon struct{ Host string }
			Status struct {
				Queues []struct {
					Queue string
					Slots int
				}
			}
		}
		if err := json.Unmarshal([]byte(line), &a); err != nil || a.Daemon.Host == "" || len(a.Status.Queues) != 1 || a.Status.Queues[0].Slots != 8 {
			t.Errorf("as JSON: %v: %s", err, line)
		}
	}
	var whole struct {
		Daemons []any
		Notes   []string
		Queues  []struct{ Consumers int }
	}
	rabbittest.Eventually(t, time.Minute, func() bool {
		text, _, _ := output(t, warren(t, env, "ps", "-o", "json"))
		err := json.Unmarshal([]byte(text), &whole)
		return err == nil && len(whole.Queues) == 1 && whole.Queues[0].Consumers == size
	}, "as one JSON it has all consumers")

	// While somebody watches, that costs little; a line of the log has how little.
	cpu := func() (ticks int) {
		for _, d := range daemons {
			stat, _ := os.ReadFile("/proc/" + strconv.Itoa(d.Process.Pid) + "/stat")
			if fields := strings.Fields(string(stat)); len(fields) > 14 {
				user, _ := strconv.Atoi(fields[13])
				system, _ := strconv.Atoi(fields[14])
				ticks += user + system
			}
		}
		return ticks
	}
	before, begun := cpu(), time.Now()
	top := warren(t, env, "top", "-o", "jsonl", "-n", "6")
	frames, errs, status := output(t, top)
	lasted := time.Since(begun).Seconds()
	if status != 0 || strings.Count(frames, `"daemons":`+strconv.Itoa(size)+",") == 0 {
		t.Errorf("top: status %d, standard error %q and\n%s", status, errs, frames)
	}
	t.Logf("in %.0f s top used %.1f %% of a core, and each daemon %.2f %%", lasted,
		100*(top.ProcessState.UserTime()+top.ProcessState.SystemTime()).Seconds()/lasted, float64(cpu()-before)/float64(size)/lasted)

	// Every act says whom it concerns, and what came of it.
	host, _ := os.Hostname()
	rabbittest.Eventually(t, time.Minute, func() bool {
		dry, _, status := output(t, warren(t, env, "quiet", host, "--dry-run"))
		return status == 0 && strings.HasPrefix(dry, "finish what is in flight and take no more: "+strconv.Itoa(size)+" daemons (")
	}, "quiet --dry-run concerns all")
	for _, c := range []struct {
		args      []string
		consumers int
	}{
		{[]string{"quiet", "--all", "--why=deploy"}, 0}, {[]string{"work", host}, size}, {[]string{"level", "debug", "--for=1m", "--all"}, size},
	} {
		begun := time.Now()
		rabbittest.Eventually(t, time.Minute, func() bool {
			out, _, status := output(t, warren(t, env, append(c.args, "--yes", "--wait=20s")...))
			return status == 0 && strings.Count(out, ": done\n") == size
		}, "all obey "+strings.Join(c.args, " "))
		rabbittest.Eventually(t, time.Minute, func() bool { return v.Consumers(t, "emails") == c.consumers }, "it is so")
		t.Logf("%q took %v", c.args, time.Since(begun).Round(time.Millisecond))
	}
	for _, c := range [][]string{{"quiet"}, {"work", "nowhere", "--yes"}, {"cancel", "none", "--yes"}, {"level", "debug", "--all", "--for=1ms"}} {
		if out, errs, status := output(t, warren(t, env, c...)); status != 1 || out != "" || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: status %d, %q and standard error %q, want one line and 1", c, status, out, errs)
		}
	}
	begun = time.Now()
	succeeds(t, env, "pause", "emails", "--yes")
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Consumers(t, "emails") == 0 }, "all have paused")
	t.Logf("pause took %v", time.Since(begun).Round(time.Millisecond))
}

// TestCancelKillsACommand ends a command that hangs, with all that it has started.
func TestCancelKillsACommand(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	folder := t.TempDir()
	d := start(t, commandQueue(v, "orders", `sleep 1000 & echo $! > `+folder+`/child; wait`, "WARREN_ADMIN_ADDR=")...)
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "hangs"})
	var pid int
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		text, _ := os.ReadFile(folder + "/child")
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0
	}, "the command runs")
	env := []string{"WARREN_AMQP_URL=" + v.URL}
	shows(t, env, []string{"ps"}, ` 1/\d+ +\S+ hangs +orders$`)
	// A pause says what is still being finished, however the broker counts its consumers.
	paused := succeeds(t, env, "pause", "orders", "--yes")
	if !regexp.MustCompile(`^orders: paused until resumed, (1 message is in flight still being finished|nobody takes messages); 0 messages ready
$`).MatchString(paused) {
		t.Errorf("pause: got %q", paused)
	}
	begun := time.Now()
	if out, errs, status := output(t, warren(t, env, "cancel", "hangs", "--why=it hangs", "--yes", "--wait=20s")); status != 0 || !strings.HasSuffix(out, ": done\n") {
		t.Errorf("cancel: status %d, %q, standard error %q", status, out, errs)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return syscall.Kill(pid, 0) != nil && v.Ready(t, "orders.dead") == 1 }, "what the command had started is gone, and the message dead")
	t.Logf("cancel took %v", time.Since(begun).Round(time.Millisecond))
	host, _ := os.Hostname()
	dead := v.Drain(t, "orders.dead")
	if dead[0].Headers["x-warren-reason"] != "cancelled" || !strings.HasPrefix(dead[0].Headers["x-warren-error"].(string), "cancelled by guest ("+host+"): it hangs") {
		t.Errorf("the dead letter has the headers %v, want the reason cancelled, and by whom", dead[0].Headers)
	}
	_ = d
}

// terminal opens a pseudo-terminal of 80 columns and 24 lines: what a program has for one,
// and its other end.
func terminal(t *testing.T) (tty, other *os.File) {
	t.Helper()
	other, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	number, err := unix.IoctlGetInt(int(other.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(other.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(other.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})
	}
	if err == nil {
		tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return tty, other
}

// TestTopOnATerminal watches a daemon, cancels what it works on, and leaves the terminal as
// it was.
func TestTopOnATerminal(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	d := start(t, commandQueue(v, "orders", `[ "$WARREN_MESSAGE_ID" = quick ] || sleep 1000`, "WARREN_ADMIN_ADDR=")...)
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "hangs"}, amqp091.Publishing{MessageId: "quick"})
	env := []string{"WARREN_AMQP_URL=" + v.URL}
	var frame string
	rabbittest.Eventually(t, time.Minute, func() bool {
		frame, _, _ = output(t, warren(t, env, "top"))
		return strings.Contains(frame, " hangs ") && strings.Contains(frame, "1 daemon  1 in flight")
	}, "it is seen in a pipe")
	if strings.ContainsAny(frame, "\x1b\t") {
		t.Errorf("in a pipe: got %q, want plain text", frame)
	}
	rabbittest.Eventually(t, time.Minute, func() bool {
		lines, _, _ := output(t, warren(t, env, "top", "-o", "jsonl", "-n", "2"))
		for line := range strings.Lines(lines) {
			var f struct {
				Daemons  int
				Attempts []struct {
					MessageID string `json:"message_id"`
				}
			}
			if err := json.Unmarshal([]byte(line), &f); err != nil || f.Daemons != 1 || len(f.Attempts) != 1 || f.Attempts[0].MessageID != "hangs" {
				return false
			}
		}
		return strings.Count(lines, "\n") == 2
	}, "two lines of JSON have it")

	tty, other := terminal(t)
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd := warren(t, append(env, "NO_COLOR=1"), "top")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var shown logtest.Buffer
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(&shown, other) // until it is closed
	}()
	defer func() {
		_ = cmd.Process.Kill() // or it has ended
		_ = cmd.Wait()
		_ = tty.Close()
		<-ended // nobody has the terminal any more
		if t.Failed() {
			t.Logf("what was shown: %q", shown.String())
		}
	}()
	press := func(keys, want string) {
		t.Helper()
		if _, err := io.WriteString(other, keys); err != nil {
			t.Fatal(err)
		}
		rabbittest.Eventually(t, time.Minute, func() bool { return strings.Contains(shown.String(), want) }, "after "+keys+" the screen has "+want)
	}
	press("", " hangs ")
	press("jj", "> ")
	press("C", "cancel hangs on ")
	press("y", "hangs is cancelled")
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "orders.dead") == 1 }, "it is dead-lettered")
	press("", "cancelled by guest")
	press("q", "\x1b[?1049l")
	if err := cmd.Wait(); err != nil {
		t.Errorf("top ended with %v", err)
	}
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil || after.Lflag != before.Lflag || after.Cc != before.Cc {
		t.Errorf("the terminal is not as it was: %+v, %v", after, err)
	}
	if strings.Contains(shown.String(), "\x1b[1m") {
		t.Error("titles are bold in spite of NO_COLOR")
	}
	_ = d
}

// TestTopComesBack takes the broker away from top, which says so, and gives it back.
func TestTopComesBack(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	proxy := rabbittest.NewProxy(t, v.Node.Addr())
	start(t, commandQueue(v, "orders", "sleep 1000", "WARREN_ADMIN_ADDR=")...)
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "earlier"})
	top := warren(t, []string{"WARREN_AMQP_URL=" + v.URLAt(proxy.Addr)}, "top", "-o", "jsonl", "-n", "100000")
	var shown, said logtest.Buffer
	top.Stdout, top.Stderr = &shown, &said
	if err := top.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("it printed\n%s%s", shown.String(), said.String())
		}
	}()
	has := func(text string) {
		t.Helper()
		rabbittest.Eventually(t, time.Minute, func() bool { return strings.Contains(shown.String(), text) }, "it shows "+text)
	}
	has(`"message_id":"earlier"`)
	proxy.Refuse()
	has(`"no connection: `)
	proxy.Restore(t)
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "later"})
	has(`"message_id":"later"`)
	if err := top.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := top.Wait(); err != nil || said.String() != "" {
		t.Errorf("it ended with %v and %q", err, said.String())
	}
}

// An act on more daemons than one request can name is done by all of them.
func TestALargeFleetIsSteered(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	ch := v.Channel(t)
	if err := ch.ExchangeDeclare(fleet.Exchange, "fanout", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err == nil {
		err = ch.QueueBind(q.Name, "", fleet.Exchange, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	requests, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	const daemons = 250
	go func() { // answers as so many daemons do
		for d := range requests {
			var r fleet.Request
			if len(d.Body) > fleet.MaxRequestBytes || json.Unmarshal(d.Body, &r) != nil {
				continue
			}
			for i := range daemons {
				an := fleet.Answer{Daemon: fleet.Daemon{Host: fmt.Sprintf("%064d", i), PID: 4_000_000}, Done: 1}
				if len(r.Daemons) > 0 && !slices.Contains(r.Daemons, an.Daemon.Name()) {
					continue
				}
				if body, err := json.Marshal(an); err == nil {
					_ = ch.Publish("", d.ReplyTo, false, false, amqp091.Publishing{CorrelationId: d.CorrelationId, Body: body})
				}
			}
		}
	}()
	rabbittest.Eventually(t, time.Minute, func() bool { // they have a few seconds, which is little on a busy machine
		stdout, stderr, status := output(t, warren(t, []string{"WARREN_AMQP_URL=" + v.URL}, "quiet", "--all", "--yes"))
		done := strings.Count(stdout, ": done\n")
		if status != 0 || done != daemons {
			t.Logf("exit status %d, %d have done it: %s", status, done, stderr)
		}
		return status == 0 && done == daemons
	}, "all of them have done it")
}
