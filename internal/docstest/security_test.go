package docstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

func TestMain(m *testing.M) { rabbittest.Main(m) }

// build builds the program.
func build(t *testing.T) string {
	t.Helper()
	warren := filepath.Join(t.TempDir(), "warren")
	if out, err := exec.Command("go", "build", "-o", warren, "github.com/warrenmq/warren").CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	return warren
}

// page is the text of a page of the documentation.
func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documentedUsers adds the users of docs/security.md with their permissions, and returns
// their URLs.
func documentedUsers(t *testing.T, v *rabbittest.Vhost) map[string]string {
	t.Helper()
	permissions := regexp.MustCompile(`(?m)^rabbitmqctl set_permissions -p production (\S+) '(.*)' '(.*)' '(.*)'$`)
	urls := make(map[string]string)
	for _, m := range permissions.FindAllStringSubmatch(page(t, "security.md"), -1) {
		urls[m[1]] = v.AddUser(t, m[1], "password", m[2], m[3], m[4])
	}
	if urls["shop"] == "" || urls["warren"] == "" {
		t.Fatalf("permissions in docs/security.md: got those of %v, want those of shop and warren", urls)
	}
	return urls
}

// run runs the program until the test ends, and wants it to end without a fault.
func run(t *testing.T, warren string, env ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(warren, "run")
	command.Dir, command.Stderr = t.TempDir(), log
	command.Env = append([]string{"PATH=" + os.Getenv("PATH"), "WARREN_ADMIN_ADDR="}, env...)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		err := command.Wait()
		_ = log.Close()
		if text, _ := os.ReadFile(log.Name()); err != nil || t.Failed() {
			t.Errorf("warren: got error %v, want nil; its log:\n%s", err, text)
		}
	})
}

// TestDocumentedPermissionsOfAPublisher has a publisher and Warren do all they need to as the
// users of docs/security.md, and the publisher nothing else.
func TestDocumentedPermissionsOfAPublisher(t *testing.T) {
	v := rabbittest.NewVhost(t)
	urls := documentedUsers(t, v)
	for _, queue := range []string{"payments", "shop.replies"} {
		v.Declare(t, queue, nil)
	}
	if err := v.Channel(t).ExchangeDeclare("billing", "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}

	shop, err := amqp.Dial(urls["shop"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shop.Close() })
	open := func() *amqp.Channel {
		t.Helper()
		ch, err := shop.Channel()
		if err == nil {
			err = ch.Confirm(false)
		}
		if err != nil {
			t.Fatal(err)
		}
		return ch
	}
	ch := open()
	if err := ch.ExchangeDeclare("shop", "topic", true, false, false, false, nil); err != nil {
		t.Fatalf("declare the exchange: %v", err)
	}

	// Each fails once, which takes it through a wait queue; but for one that is dead at once,
	// and one that would have Warren write where its publisher may not.
	folder := t.TempDir()
	script := fmt.Sprintf(`read -r id; [ "$id" = dead ] && exit 65; [ -e %[1]s/$id ] && echo done > %[1]s/$id && exit; : > %[1]s/$id; exit 1`, folder)
	env := []string{
		"WARREN_AMQP_URL=" + urls["warren"],
		"WARREN_QUEUE_ORDERS_PROCESSOR=command",
		`WARREN_QUEUE_ORDERS_COMMAND=/bin/sh -c '` + script + `'`,
		"WARREN_QUEUE_ORDERS_MAX_ATTEMPTS=3",
		"WARREN_SCHEDULES=often",
		"WARREN_SCHEDULE_OFTEN_EVERY=1s",
		"WARREN_SCHEDULE_OFTEN_QUEUE=orders",
		"WARREN_SCHEDULE_OFTEN_BODY=scheduled",
	}
	env = append(env, regexp.MustCompile(`(?m)^WARREN_QUEUE\S+=\S+$`).FindAllString(page(t, "security.md"), -1)...)
	warren := build(t)
	run(t, warren, env...)
	rabbittest.Eventually(t, 2*time.Minute, func() bool { return v.Consumers(t, "orders") > 0 }, "the queue is consumed")
	for _, m := range []amqp.Publishing{
		{MessageId: "retried", Body: []byte("retried\n"), ReplyTo: "shop.replies"},
		{MessageId: "dead", Body: []byte("dead\n")},
		{MessageId: "forged", Body: []byte("forged\n"), Headers: amqp.Table{"x-warren-attempt": int64(99)}},
		{MessageId: "deputy", Body: []byte("deputy\n"), ReplyTo: "payments"},
	} {
		confirm, err := ch.PublishWithDeferredConfirm("shop", "order.created", true, false, m)
		if err != nil || !confirm.Wait() {
			t.Fatalf("publish to the exchange: got error %v, want a confirm", err)
		}
	}
	for _, id := range []string{"retried", "forged", "scheduled"} {
		rabbittest.Eventually(t, 2*time.Minute, func() bool {
			got, _ := os.ReadFile(filepath.Join(folder, id)) // not there yet
			return string(got) == "done\n"
		}, "the message "+id+" is done at its second attempt")
	}
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "orders.dead") == 2 }, "the others are dead-lettered")
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "shop.replies") == 1 }, "the publisher has its result")
	rabbittest.Eventually(t, time.Minute, func() bool {
		check := exec.Command(warren, "check")
		check.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
		out, _ := check.CombinedOutput() // its status tells of the dead letters
		text := string(out)
		return check.ProcessState.ExitCode() == 3 && !strings.Contains(text, "FAULT") && !strings.Contains(text, "not asked") && strings.Contains(text, "dead letters of orders: 2 messages")
	}, "warren check ends with 3, for the dead letters alone")

	for what, try := range map[string]func(ch *amqp.Channel) error{
		"publish to the queue by its name":   publishTo("", "orders"),
		"publish to another's queue":         publishTo("", "payments"),
		"publish to the dead letters":        publishTo("", "orders.dead"),
		"publish to a queue of Warren's":     publishTo("", "warren.schedule.often"),
		"publish to an exchange of Warren's": publishTo("warren.wait.1s", "payments"),
		"ask something of the daemons":       publishTo("warren.control", ""),
		"publish to another exchange":        publishTo("billing", "order.created"),
		"publish to a predeclared exchange":  publishTo("amq.topic", "order.created"),
		"consume":                            func(ch *amqp.Channel) error { _, _, err := ch.Get("orders", true); return err },
		"read the dead letters":              func(ch *amqp.Channel) error { _, _, err := ch.Get("orders.dead", true); return err },
		"purge":                              func(ch *amqp.Channel) error { _, err := ch.QueuePurge("orders", false); return err },
		"delete":                             func(ch *amqp.Channel) error { _, err := ch.QueueDelete("orders", false, false, false); return err },
		"declare a queue": func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("new", true, false, false, false, nil)
			return err
		},
		"pause a queue": func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("warren.paused.orders", true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum})
			return err
		},
		"bind a queue of another to its exchange": func(ch *amqp.Channel) error { return ch.QueueBind("payments", "#", "shop", false, nil) },
		"bind its exchange to another":            func(ch *amqp.Channel) error { return ch.ExchangeBind("shop", "#", "billing", false, nil) },
	} {
		if refused, ok := errors.AsType[*amqp.Error](try(open())); !ok || refused.Code != amqp.AccessRefused {
			t.Errorf("%s as the publisher: got error %v, want code %d", what, refused, amqp.AccessRefused)
		}
	}
	if got := v.Ready(t, "payments"); got != 0 {
		t.Errorf("messages in another's queue: got %d, want 0", got)
	}
	if text := page(t, "security.md"); !strings.Contains(text, "WARREN_QUEUE_ORDERS_EXCHANGE=shop") {
		t.Error("docs/security.md does not bind the queue to the publisher's exchange")
	}
}

// TestDocumentedPermissionsOfAnOperator steers a daemon as the operator of docs/security.md.
func TestDocumentedPermissionsOfAnOperator(t *testing.T) {
	v := rabbittest.NewVhost(t)
	urls := documentedUsers(t, v)
	if err := v.Channel(t).ExchangeDeclare("shop", "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	users := regexp.MustCompile(`(?m)^WARREN_CONTROL_USERS=\S+$`).FindString(page(t, "fleet.md"))
	if users == "" || urls["ops"] == "" {
		t.Fatal("docs/fleet.md names no users to obey, or docs/security.md has no permissions of ops")
	}
	warren := build(t)
	run(t, warren, "WARREN_AMQP_URL="+urls["warren"], "WARREN_QUEUES=orders", "WARREN_QUEUE_ORDERS_PROCESSOR=log", users)
	rabbittest.Eventually(t, 2*time.Minute, func() bool { return v.Consumers(t, "orders") == 1 }, "the queue is consumed")
	for _, c := range []struct {
		args []string
		want string // a part of what is printed
	}{
		{[]string{"ps"}, " 0/8 "},
		{[]string{"top"}, "1 daemon  0 in flight"},
		{[]string{"pause", "orders", "--for=1h", "--yes"}, "orders: paused for 1h0m0s, nobody takes messages"},
		{[]string{"ps"}, "! orders is paused for "},
		{[]string{"resume", "orders", "--yes"}, "orders: resumed; "},
		{[]string{"quiet", "--all", "--yes"}, ": done"},
		{[]string{"work", "--all", "--yes"}, ": done"},
	} {
		rabbittest.Eventually(t, time.Minute, func() bool { // daemons have a few seconds, which is little on a busy machine
			command := exec.Command(warren, c.args...)
			command.Env = []string{"PATH=" + os.Getenv("PATH"), "WARREN_AMQP_URL=" + urls["ops"]}
			out, err := command.CombinedOutput()
			return err == nil && strings.Contains(string(out), c.want)
		}, fmt.Sprintf("%q as the operator prints %q", c.args, c.want))
	}
}

// publishTo publishes a message, and returns how the broker refuses it.
func publishTo(exchange, key string) func(ch *amqp.Channel) error {
	return func(ch *amqp.Channel) error {
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		confirm, err := ch.PublishWithDeferredConfirm(exchange, key, false, false, amqp.Publishing{Body: []byte("forged")})
		if err != nil {
			return err
		}
		if confirm.Wait() {
			return errors.New("the broker has taken it")
		}
		return <-closed
	}
}
