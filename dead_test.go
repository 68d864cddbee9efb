package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// deadLetter is one as a daemon writes it, three hours old.
func deadLetter(id, reason, fault, body string) amqp091.Publishing {
	return amqp091.Publishing{MessageId: id, Type: "mail", ContentType: "application/json", Body: []byte(body), Headers: amqp091.Table{
		"x-warren-reason": reason, "x-warren-error": fault, "x-warren-attempt": int64(20), "x-warren-failed-at": time.Now().Add(-3 * time.Hour).UnixMilli(),
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant": "blue\x1b[2J",
	}}
}

// declareDead declares a dead-letter queue as a daemon does, and fills it.
func declareDead(t *testing.T, v *rabbittest.Vhost, queue string, letters ...amqp091.Publishing) {
	t.Helper()
	v.Declare(t, queue+".dead", amqp091.Table{"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": int64(1_000_000)})
	v.Publish(t, queue+".dead", letters...)
}

func TestDeadLettersAreSeen(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declareDead(t, v, "mails",
		deadLetter("order-17", "exhausted", "451 4.3.0 try again later, this server is very busy today and asks for patience", `{"to":"ada@example.net","n":12345678901234567890}`),
		deadLetter("order-\x1b]0;18", "exhausted", "451 4.3.0 try again later, this server is very busy today and asks for patience", "{}"),
		deadLetter("9", "permanent", "550 no such mailbox\nsecond line", "\x00\x01"))
	run := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		stdout, stderr, status := output(t, warren(t, []string{"WARREN_AMQP_URL=" + v.URL, "WARREN_TRACE_URL=https://jaeger.example.net/trace/{trace}"}, args...))
		if status != want {
			t.Errorf("%q: got status %d and %s, want %d", args, status, stderr, want)
		}
		return stdout, stderr
	}
	list, counted := run(0, "dead", "list", "mails")
	if want := `ID               AGE  TRIES  REASON     ERROR
order-17         3h   20     exhausted  451 4.3.0 try again later, this server …
order-\x1b]0;18  3h   20     exhausted  451 4.3.0 try again later, this server …
9                3h   20     permanent  550 no such mailbox\nsecond line
`; list != want {
		t.Errorf("list: got\n%s", list)
	}
	if counted != "3 dead letters, of 3 looked at\n" {
		t.Errorf("list: standard error is %q", counted)
	}
	groups, counted := run(0, "dead", "groups", "mails")
	if counted != "2 groups of 3 dead letters, of 3 looked at\n" {
		t.Errorf("groups: standard error is %q", counted)
	}
	if want := regexp.MustCompile(`^GROUP     COUNT  FIRST  LAST  SAMPLE          REASON     ERROR
[0-9a-f]{8}  2      3h     3h    order-\\x1b\]0;…  exhausted  451 <n> try again late…
[0-9a-f]{8}  1      3h     3h    9               permanent  550 no such mailbox
[0-9a-f]{8}: 451 <n> try again later, this server is very busy today and asks for patience
$`); !want.MatchString(groups) {
		t.Errorf("groups: got\n%s", groups)
	}
	shown, _ := run(0, "dead", "show", "mails", "order-17")
	since := regexp.MustCompile(`(?m)^since .*$|(?m)^  x-warren-failed-at: .*$|(?m)^group .*$`)
	if want := `id        order-17
queue     mails
reason    exhausted
error     451 4.3.0 try again later, this server is very busy today and asks for patience
attempts  20
-
-
trace     https://jaeger.example.net/trace/0af7651916cd43dd8448eb211c80319c

properties
  content-type: application/json
  message-id: order-17
  type: mail

headers
  tenant: blue\x1b[2J
  traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
  x-delivery-count: 2
  x-warren-attempt: 20
  x-warren-error: 451 4.3.0 try again later, this server is very busy today and asks for patience
-
  x-warren-reason: exhausted

body, 49 bytes of JSON
{
  "to": "ada@example.net",
  "n": 12345678901234567890
}
`; since.ReplaceAllString(shown, "-") != want {
		t.Errorf("show: got\n%s", shown)
	}
	if body, _ := run(0, "dead", "show", "mails", "9", "--body"); body != "\x00\x01" {
		t.Errorf("show --body: got %q", body)
	}
	if hex, _ := run(0, "dead", "show", "mails", "9"); !strings.Contains(hex, "body, 2 bytes of binary\n00000000  00 01  ") {
		t.Errorf("show of what is binary: got\n%s", hex)
	}
	var found []struct{ ID, Reason string }
	text, _ := run(0, "dead", "list", "mails", "-o", "json", "--filter", "error ~ '^4'")
	if err := json.Unmarshal([]byte(text), &found); err != nil || fmt.Sprint(found) != "[{order-17 exhausted} {order-\x1b]0;18 exhausted}]" {
		t.Errorf("list -o json: got %s and error %v", text, err)
	}
	_, fault := run(1, "dead", "show", "mails", "nobody")
	if want := "warren: no dead letter of mails has the id nobody, of 3 looked at; warren dead list mails lists them\n"; fault != want {
		t.Errorf("show: got %q, want %q", fault, want)
	}
	if _, fault = run(1, "dead", "list", "mail"); !strings.Contains(fault, "there is no queue mail.dead: check the name of the work queue") {
		t.Errorf("list: got %q", fault)
	}
	if _, fault = run(1, "dead", "list", "mails", "-f", "reasn = x"); !strings.Contains(fault, `the filter is wrong at character 1 ("reasn = x"): there is no field reasn`) {
		t.Errorf("list: got %q", fault)
	}
	if _, said := run(0, "waiting", "list", "mials"); said != "warren: there is no queue mials: check the name, and the virtual host of WARREN_AMQP_URL\n" {
		t.Errorf("waiting list of no queue: got %q", said)
	}
	if n := v.Ready(t, "mails.dead"); n != 3 {
		t.Errorf("%d dead letters are left, want 3", n)
	}
}

// The terminal's tools, from failure to success: a deploy makes messages fail, its successor works.
func TestDeadLettersAreReplayed(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	dir := t.TempDir()
	fixed := filepath.Join(dir, "fixed")
	start(t, commandQueue(v, "orders", "test -e "+fixed+" || { echo order gone >&2; exit 65; }")...)
	env := []string{"WARREN_AMQP_URL=" + v.URL, "EDITOR=sed -i s/7/8/"}
	run := func(want int, in string, args ...string) (stdout, stderr string) {
		t.Helper()
		cmd := warren(t, env, args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(in)
		stdout, stderr, status := output(t, cmd)
		if status != want {
			t.Errorf("%q: got status %d, %s and %s, want %d", args, status, stdout, stderr, want)
		}
		return stdout, stderr
	}
	dead := func(n int) {
		t.Helper()
		rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead") == n }, fmt.Sprintf("%d are dead", n))
	}
	lines := ""
	for i := range 10 {
		lines += fmt.Sprintf(`{"message_id":"o-%d","body":"{\"n\":%d}"}`+"\n", i, i)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders") >= 0 }, "the queue is declared")
	if ids, _ := run(0, lines, "publish", "orders", "--lines", "-"); strings.Count(ids, "\n") != 10 || !strings.HasPrefix(ids, "o-0\no-1\n") {
		t.Errorf("publish --lines: got %q", ids)
	}
	if _, fault := run(1, lines, "publish", "orders", "--lines", "-", "--timeout", "5s"); !strings.Contains(fault, "leave out all but the queue and --exchange") {
		t.Errorf("publish --lines with a timeout: got %q", fault)
	}
	if _, fault := run(1, lines, "publish", "orders", "--lines", "-", "--content-type", "text/plain"); !strings.Contains(fault, "leave out all but the queue and --exchange") {
		t.Errorf("publish --lines with a content type: got %q", fault)
	}
	dead(10)

	if out, _ := run(0, "", "dead", "replay", "orders", "--all", "--dry-run"); out != "replay 10 dead letters of orders: 10 permanent\n" {
		t.Errorf("dry run: got %q", out)
	}
	if _, fault := run(1, "", "dead", "replay", "orders", "--all"); fault != "warren: replay 10 dead letters of orders: 10 permanent: there is no terminal to ask on; say --yes, or --dry-run\n" {
		t.Errorf("without a terminal: got %q", fault)
	}
	for _, args := range [][]string{{}, {"o-1", "--all"}, {"--filter", "reason ="}, {"--edit", "--all"}, {"--all", "--rate=-1"}} {
		if out, fault := run(1, "", append([]string{"dead", "replay", "orders", "--yes"}, args...)...); out != "" || fault == "" {
			t.Errorf("%q: got %q and %q", args, out, fault)
		}
	}
	dead(10)
	// Replayed too early, they die again, and say that they were replayed.
	if out, _ := run(0, "", "dead", "replay", "orders", "o-1", "o-2", "--yes"); out != "replayed 2 dead letters of orders\n" {
		t.Errorf("replay: got %q", out)
	}
	dead(10)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool {
		out, _ := run(0, "", "dead", "list", "orders", "-f", "replayed = 1 and attempts = 1 and error ~ 'order gone'", "-o", "jsonl")
		return strings.Count(out, "\n") == 2
	}, "both say so")
	if out, fault := run(3, "", "dead", "replay", "orders", "nobody", "--yes"); out != "replayed 0 dead letters of orders\n" || fault != "warren: no dead letter of orders has the id nobody\n" {
		t.Errorf("an id that there is not: got %q and %q", out, fault)
	}

	// Canaries die first, and the rest stays.
	out, fault := run(3, "", "dead", "replay", "orders", "--all", "--yes", "--canary", "2")
	if out != "replayed 2 dead letters of orders\n" || !strings.Contains(fault, "warren: of 2 canaries ") || !strings.Contains(fault, "; the rest is left\n") {
		t.Errorf("canaries that die: got %q and %q", out, fault)
	}
	dead(10)
	if err := os.WriteFile(fixed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, difference := run(0, "", "dead", "replay", "orders", "o-7", "--edit", "--yes")
	if out != "replayed 1 dead letter of orders\n" || difference != "- {\"n\":7}\n+ {\"n\":8}\n" {
		t.Errorf("edit: got %q and %q", out, difference)
	}
	dead(9)
	if _, fault := run(1, "", "dead", "replay", "orders", "o-3", "--edit", "--yes"); fault != "warren: the body was not changed; nothing was done\n" {
		t.Errorf("edit without a change: got %q", fault)
	}
	out, _ = run(0, "", "dead", "discard", "orders", "-f", "body.n < 3", "--archive", "gone.jsonl", "--yes")
	if out != "gone.jsonl has them; warren dead import orders gone.jsonl puts them back\ndiscarded 3 dead letters of orders\n" {
		t.Errorf("discard: got %q", out)
	}
	dead(6)
	if _, fault := run(1, "", "dead", "discard", "orders", "--all", "--archive", "gone.jsonl", "--yes"); !strings.Contains(fault, "gone.jsonl: file exists") {
		t.Errorf("into a file that there is: got %q", fault)
	}
	if out, _ := run(0, "", "dead", "import", "orders", "gone.jsonl", "--dry-run"); out != "import 3 messages into orders.dead\n" {
		t.Errorf("import: got %q", out)
	}
	if out, _ := run(0, "", "dead", "import", "orders", "gone.jsonl", "--yes"); out != "imported 3 messages into orders.dead\n" {
		t.Errorf("import: got %q", out)
	}
	dead(9)
	if err := os.WriteFile(filepath.Join(dir, "cut.jsonl"), []byte(`{"message_id":"o-10","body":"{\"n\":10}"}`+"\n"+`{"message_id":"o-11","bo`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, fault := run(0, "", "dead", "import", "orders", "cut.jsonl", "--dry-run"); out != "import 1 message into orders.dead\n" || !strings.HasPrefix(fault, "warren: cut.jsonl: line 2: it is unfinished, and left out") {
		t.Errorf("import of what was cut off: got %q and %q", out, fault)
	}
	if out, fault := run(3, "", "dead", "import", "orders", "cut.jsonl", "--yes"); out != "imported 1 message into orders.dead\n" || !strings.HasPrefix(fault, "warren: line 2: it is unfinished, and left out") {
		t.Errorf("import of what was cut off: got %q and %q", out, fault)
	}
	dead(10)
	exported, counted := run(0, "", "dead", "export", "orders", "-f", "id = o-1")
	if !strings.HasPrefix(exported, `{"message_id":"o-1","headers":{`) || !strings.HasSuffix(exported, `},"body":"{\"n\":1}"}`+"\n") ||
		counted != "exported 1 dead letter of orders\n" {
		t.Errorf("export: got %q and %q", exported, counted)
	}
	if out, _ := run(0, "", "dead", "replay", "orders", "--all", "--yes", "--canary=3", "--watch=2s"); out != "replayed 10 dead letters of orders\n" {
		t.Errorf("replay: got %q", out)
	}
	dead(0)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders") == 0 && v.Unacked(t, "orders") == 0 }, "all are done")
	if n := v.Ready(t, "orders.dead"); n != 0 {
		t.Errorf("%d died again", n)
	}
}

// Without a canary that was replayed nothing is known, and nothing more is replayed. What cannot
// be published is met once more after those that could be, and counts once.
func TestCanariesThatCannotBePublished(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	full := func(id string) amqp091.Publishing { // has no room for the header that replaying adds
		return amqp091.Publishing{MessageId: id, Headers: amqp091.Table{"fill": strings.Repeat("x", 131_020)}}
	}
	letters := []amqp091.Publishing{full("l-0")}
	for i := range 21 {
		letters = append(letters, amqp091.Publishing{MessageId: fmt.Sprintf("o-%d", i)})
	}
	declareDead(t, v, "orders", letters...)
	v.Declare(t, "orders", nil)
	replay := func(args ...string) (stdout, stderr string) {
		t.Helper()
		stdout, stderr, status := output(t, warren(t, []string{"WARREN_AMQP_URL=" + v.URL}, append([]string{"dead", "replay", "orders", "--yes", "--watch=1s"}, args...)...))
		if status != 3 {
			t.Errorf("%q: got status %d", args, status)
		}
		return stdout, stderr
	}
	if out, fault := replay("--all", "--canary=1"); out != "replayed 0 dead letters of orders\n" || !strings.HasPrefix(fault, "warren: 1 dead letter was left where it was, since it cannot be published: ") || v.Ready(t, "orders") != 0 {
		t.Errorf("the canary cannot be published: got %q and %q", out, fault)
	}
	if _, err := v.Channel(t).Consume("orders", "", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if out, fault := replay("--all", "--canary=2"); out != "replayed 1 dead letter of orders\n" ||
		!strings.Contains(fault, "warren: of 2 canaries too many have failed: dead letters 1, waiting for another attempt 0, without a message-id to be known by 0; not replayed, since they cannot be published: 1 (") {
		t.Errorf("one canary of two cannot be published: got %q and %q", out, fault)
	}
	if out, fault := replay("--all", "--canary=20", "--limit=21"); out != "replayed 20 dead letters of orders\n" || !strings.Contains(fault, "warren: 1 dead letter was left where it was") || v.Ready(t, "orders.dead") != 1 {
		t.Errorf("one canary of 20 cannot be published: got %q and %q", out, fault)
	}
}

// The tool is killed again and again: each message is in its queue or dead, and few are in both.
func TestReplayThatIsKilled(t *testing.T) {
	n, kills := 4000, 8
	if os.Getenv("WARREN_TEST_LONG") != "" {
		n, kills = 10_000, 20
	}
	v := rabbittest.NewVhost(t)
	declareDead(t, v, "orders")
	published := 0
	publish := func() {
		v.PublishN(t, "orders.dead", n, func(i int) amqp091.Publishing {
			return deadLetter(fmt.Sprint(published+i), "exhausted", "no", "{}")
		})
		published += n
	}
	v.Declare(t, "orders", amqp091.Table{"x-queue-type": "quorum", "x-overflow": "reject-publish"})
	env := []string{"WARREN_AMQP_URL=" + v.URL}
	ch := v.Channel(t)
	replayed := func() int {
		q, err := ch.QueueDeclarePassive("orders", true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		return q.Messages
	}
	left := func() bool { // what is unacknowledged may be back between two looks
		return v.Ready(t, "orders.dead") > 0 || v.Unacked(t, "orders.dead") > 0 || v.Ready(t, "orders.dead") > 0
	}
	killed := 0
	for killed < kills || left() {
		if !left() {
			publish() // for the first time, or since a busy machine has killed too late
		}
		cmd := warren(t, env, "dead", "replay", "orders", "--all", "--yes")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if killed < kills {
			// At a random moment after it has begun, and before it has more than its share.
			enough := replayed() + 1 + rand.IntN(n/(kills+1))
			rabbittest.Eventually(t, rabbittest.Soon, func() bool { return replayed() >= enough || !left() }, "some are replayed")
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
		if !cmd.ProcessState.Exited() {
			killed++
		}
	}
	seen := make(map[string]int)
	for _, d := range v.Drain(t, "orders") {
		seen[d.MessageId]++
	}
	repeats := 0
	for _, times := range seen {
		repeats += times - 1
	}
	t.Logf("%d messages, killed %d times: %d repeats", published, killed, repeats)
	if len(seen) != published || repeats*100 >= published {
		t.Errorf("got %d messages and %d repeats, want %d and less than 1 %%", len(seen), repeats, published)
	}
}

// Many dead letters are looked at and replayed: 100,000 with WARREN_TEST_LONG. The log has the
// rates, and that the memory of what is in use does not grow with their number.
func TestManyDeadLetters(t *testing.T) {
	n, size := 5000, 1000
	if os.Getenv("WARREN_TEST_LONG") != "" {
		n = 100_000
	}
	v := rabbittest.NewVhost(t)
	declareDead(t, v, "orders")
	v.Declare(t, "orders", amqp091.Table{"x-queue-type": "quorum", "x-overflow": "reject-publish"})
	body := `{"text":"` + strings.Repeat("x", size) + `"}`
	v.PublishN(t, "orders.dead", n, func(i int) amqp091.Publishing { return deadLetter(fmt.Sprint(i), "exhausted", "451 try again", body) })
	for _, args := range [][]string{{"list", "orders", "-o", "jsonl"}, {"groups", "orders"}, {"replay", "orders", "--all", "--yes"}} {
		rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "orders.dead") == n }, "what was looked at is back")
		cmd := warren(t, []string{"WARREN_AMQP_URL=" + v.URL, "GODEBUG=gctrace=1"}, append([]string{"dead"}, args...)...)
		begin := time.Now()
		stdout, stderr, status := output(t, cmd)
		took := time.Since(begin)
		if status != 0 || args[0] == "list" && strings.Count(stdout, "\n") != n || args[0] == "replay" && stdout != fmt.Sprintf("replayed %d dead letters of orders\n", n) {
			t.Errorf("%q: got status %d and %s", args, status, stderr)
		}
		heap := 0 // MB at the end of a collection, at most
		for _, m := range regexp.MustCompile(`(?m)^gc .* \d+->(\d+)->\d+ MB`).FindAllStringSubmatch(stderr, -1) {
			if mb, err := strconv.Atoi(m[1]); err == nil {
				heap = max(heap, mb)
			}
		}
		t.Logf("%s of %d: %v, %.0f/s, a heap of %d MB at most", args[0], n, took.Round(time.Millisecond), float64(n)/took.Seconds(), heap)
		if heap == 0 || heap > 64 {
			t.Errorf("%s: the heap had %d MB, want some, and no more than 64", args[0], heap)
		}
	}
	if got := v.Ready(t, "orders"); got != n {
		t.Errorf("%d messages are in the queue, want %d", got, n)
	}
}
