package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// checks runs warren check until it ends with that exit status and has these findings, and
// returns what it has printed. Others have a second or a few to answer it, which is little on a
// busy machine.
func checks(t *testing.T, env []string, status int, want ...string) string {
	t.Helper()
	var stdout, stderr string
	var got int
	var lacks []string
	defer func() {
		if got != status || len(lacks) > 0 {
			t.Logf("check ends with %d and says\n%s%s\nwant %d, and it lacks %q", got, stdout, stderr, status, lacks)
		}
	}()
	rabbittest.Eventually(t, time.Minute, func() bool {
		stdout, stderr, got = output(t, warren(t, env, "check"))
		lacks = slices.DeleteFunc(slices.Clone(want), func(w string) bool { return strings.Contains(stdout, w) })
		return got == status && len(lacks) == 0
	}, "check says what is so")
	return stdout + stderr
}

// Each processor looks at what it depends on, and changes nothing.
func TestCheckLooksAtWhatProcessorsNeed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"good/sales.sql": "SELECT version_id FROM warren_migrations", "bad/sales.sql": "SELECT price FROM orders_of_nobody",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plain, secure := httptest.NewServer(http.NotFoundHandler()), httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	env := []string{
		"WARREN_AMQP_URL=" + rabbittest.NewVhost(t).URL, "WARREN_ADMIN_ADDR=", "WARREN_DATABASE_URL=sqlite:" + dir + "/warren.db",
		"WARREN_QUEUES=hooks,secure,closed,good,bad,mails",
		"WARREN_QUEUE_HOOKS_PROCESSOR=webhook", "WARREN_QUEUE_HOOKS_URL=" + plain.URL + "/secret-path",
		"WARREN_QUEUE_SECURE_PROCESSOR=webhook", "WARREN_QUEUE_SECURE_URL=" + secure.URL,
		"WARREN_QUEUE_CLOSED_PROCESSOR=webhook", "WARREN_QUEUE_CLOSED_URL=http://127.0.0.1:1/secret-path",
		"WARREN_QUEUE_GOOD_PROCESSOR=report", "WARREN_QUEUE_GOOD_REPORTS=" + dir + "/good", "WARREN_QUEUE_GOOD_OUTPUT=" + dir + "/out",
		"WARREN_QUEUE_BAD_PROCESSOR=sql", "WARREN_QUEUE_BAD_STATEMENTS=" + dir + "/bad",
		"WARREN_QUEUE_MAILS_PROCESSOR=email", "WARREN_QUEUE_MAILS_SMTP_URL=smtp://shop:hunter2@127.0.0.1:1", "WARREN_QUEUE_MAILS_FROM=shop@example.com",
	}
	if _, stderr, status := output(t, warren(t, env, "migrate")); status != 0 {
		t.Fatalf("migrate: exit status %d, %s", status, stderr)
	}
	before := tree(t, dir)
	stdout, stderr, status := output(t, warren(t, env, "check"))
	for _, want := range []string{
		"ok     processor of hooks: " + strings.TrimPrefix(plain.URL, "http://") + " accepts connections\n",
		"FAULT  processor of secure: TLS with ", "certificate", "       cure: correct the host in URL, or name the authority with CA\n",
		"FAULT  processor of closed: connect to the receiver: ", "connection refused\n       why:  ", "or correct the variables WARREN_QUEUE_CLOSED_...\n",
		"ok     processor of good: the database knows what each report names: sales\n",
		"FAULT  processor of bad: statement sales: ", "orders_of_nobody",
		"FAULT  processor of mails: connect to the SMTP server: ",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("check says\n%s%s\nwant %q in it", stdout, stderr, want)
		}
	}
	if status != 1 || strings.Contains(stdout+stderr, "hunter2") || strings.Contains(stdout+stderr, "secret-path") {
		t.Errorf("exit status %d, want 1, and no secret in\n%s%s", status, stdout, stderr)
	}
	if got := tree(t, dir); !slices.Equal(got, before) {
		t.Errorf("check has made %q of %q", got, before)
	}
}

// The address of the admin server is free, a daemon's, or another program's.
func TestCheckLooksAtTheAdminAddress(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	other := listen(t)
	addr := other.Addr().String()
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR="+addr)
	checks(t, env, 1, "FAULT  admin address "+addr+": another program has it\n", "       cure: ss -ltnp ")
	_ = other.Close()
	checks(t, env, 0, "ok     admin address "+addr+": is free\n")
	start(t, env...)
	checks(t, env, 0, "ok     admin address "+addr+": a daemon has it\n")
	env = commandQueue(v, "hooks", "cat", "WARREN_ADMIN_ADDR="+addr)
	checks(t, env, 0, "note   admin address "+addr+": a daemon has it, but none that works these queues has answered from this machine\n")
}

// With --look, check says why dead letters are there, and what waits; without, it does not look.
func TestCheckLooksIntoQueues(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "echo try again later >&2; exit 75", "WARREN_ADMIN_ADDR=", "WARREN_QUEUE_ORDERS_RETRY_BASE=1h")
	start(t, env...)
	v.PublishN(t, "orders.dead", 300, func(i int) amqp091.Publishing {
		return deadLetter(fmt.Sprint(i), "exhausted", fmt.Sprintf("451 try again in %d s", i), "{}")
	})
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "waits", Body: []byte("{}")})
	want := []string{
		"WARN   dead letters of orders: 300 messages\n", "note   waits of orders: 1 message waits for a delay or its next attempt",
		"note   failures of orders: the last ", "attempt 1 at waits (retry): exit status 75: ",
	}
	checkOutput := func(args ...string) (stdout string) {
		rabbittest.Eventually(t, time.Minute, func() bool {
			stdout, _, _ = output(t, warren(t, env, append([]string{"check"}, args...)...))
			return !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(stdout, w) })
		}, fmt.Sprintf("check %q has %q", args, want))
		return stdout
	}
	if got := checkOutput(); strings.Contains(got, "of the first") || strings.Contains(got, "looked at, the next") {
		t.Errorf("without --look:\n%s", got)
	}
	want = append(want, "note   causes of the dead letters of orders: of the first 200: 200 exhausted since ", "h (451 try again in <n> s)\n",
		"note   waits of orders: of 1 looked at, the next is due in ", "; waits has been tried 1 times (exit status 75: ")
	checkOutput("--look")
	if n := v.Ready(t, "orders.dead"); n != 300 {
		t.Errorf("%d dead letters are left, want 300", n)
	}
}

// The management plugin is asked for what AMQP does not tell; here with answers as those of
// RabbitMQ 3.10 are, since the node of the tests goes without it.
func TestCheckAsksTheManagementPlugin(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	plugin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "monitor" || password != "hunter2" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch r.URL.EscapedPath() {
		case "/api/nodes":
			fmt.Fprint(w, `[{"name":"rabbit@mq1","running":true,"mem_alarm":false,"disk_free_alarm":false},{"name":"rabbit@mq2","running":true,"disk_free_alarm":true},{"name":"rabbit@mq3","running":false}]`)
		case "/api/queues/" + v.Name + "/orders":
			fmt.Fprint(w, `{"type":"quorum","policy":"limits","operator_policy":null,"effective_policy_definition":{"delivery-limit":5,"max-length":1000},"members":["rabbit@mq1"],"online":["rabbit@mq1"]}`)
		case "/api/queues/" + v.Name + "/orders.dead":
			fmt.Fprint(w, `{"type":"quorum","effective_policy_definition":[],"members":["rabbit@mq1","rabbit@mq2","rabbit@mq3"],"online":["rabbit@mq1","rabbit@mq2"]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(plugin.Close)
	url := strings.Replace(plugin.URL, "://", "://monitor:hunter2@", 1)
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR=", "WARREN_MANAGEMENT_URL="+url)
	start(t, env...)
	checks(t, env, 3, "WARN   node rabbit@mq2: has a disk alarm\n", "WARN   node rabbit@mq3: does not run\n", "ok     cluster: 2 of 3 nodes run\n",
		"WARN   replicas of orders: 1, in a cluster of 3 nodes\n", "WARN   policies of orders: limits: delivery-limit 5, max-length 1000\n", "WARN   replicas of orders.dead: 2 of 3 are online\n")
	env[len(env)-1] = strings.Replace(env[len(env)-1], "hunter2", "wr0ng", 1)
	if printed := checks(t, env, 3, "WARN   management plugin: not asked: it refuses the user; "); strings.Contains(printed, "wr0ng") {
		t.Errorf("with a wrong password:\n%s", printed)
	}
	env[len(env)-1] = "WARREN_MANAGEMENT_URL=mq1:wr0ng"
	if stdout, stderr, status := output(t, warren(t, env, "check")); status != 1 || !strings.Contains(stderr, "WARREN_MANAGEMENT_URL is no URL of an HTTP API") || strings.Contains(stdout+stderr, "wr0ng") {
		t.Errorf("with what is no URL: exit status %d and\n%s%s", status, stdout, stderr)
	}
}
