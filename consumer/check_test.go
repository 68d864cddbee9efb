package consumer

import (
	"fmt"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// findings runs Check and returns its lines, each with ok or FAIL.
func findings(t *testing.T, nodes []string, queues ...Queue) string {
	t.Helper()
	var lines strings.Builder
	Check(t.Context(), Config{Nodes: nodes, Queues: queues}, func(f Finding) {
		state := "FAIL"
		if f.Severity != broker.SeverityFault {
			state = "ok"
		}
		fmt.Fprintf(&lines, "%s %s\n", state, f)
	})
	return lines.String()
}

func wantLines(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("the findings are\n%swant %q among them", got, w)
		}
	}
}

func TestCheck(t *testing.T) {
	v := rabbittest.NewVhost(t)
	orders := Queue{Name: "orders", Processor: noop, EnvPrefix: "WARREN_QUEUE_ORDERS_"}

	before := findings(t, []string{v.URL}, orders)
	wantLines(t, before, "ok node "+v.Node.Addr()+": RabbitMQ ", "ok queue orders: is missing; warren declares it when it starts", "ok plan of orders: 20 attempts within 8h8m15s, then orders.dead", "ok wait queues of orders: 0 of 12 are there")
	if _, err := v.Channel(t).QueueDeclarePassive("orders", true, false, false, false, nil); err == nil {
		t.Error("Check has declared the queue")
	}

	run(t, []string{v.URL}, orders).end()
	v.PublishN(t, "orders", 3, numbered)
	after := findings(t, []string{v.URL}, orders)
	wantLines(t, after, "ok queue orders: 3 messages ready, 0 consumers", "ok queue orders.dead: 0 messages", "ok publishing: permitted")
	if strings.Contains(after, "FAIL") {
		t.Errorf("findings:\n%s", after)
	}
	for _, d := range v.Drain(t, "orders") {
		if d.Redelivered {
			t.Errorf("Check has taken message %s", d.MessageId)
		}
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	v := rabbittest.NewVhost(t)
	_, _ = run(t, []string{v.URL}, Queue{Name: "orders", Processor: noop}).end()
	if _, err := v.Channel(t).QueueDeclare("other", true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Fatal(err)
	}
	down := rabbittest.NewProxy(t, v.Node.Addr())
	down.Refuse()
	user := strings.ToLower(v.Name)
	writer := v.AddUser(t, "writer-"+user, "pw", ".*", ".*", "^$")
	reader := v.AddUser(t, "reader-"+user, "pw", ".*", "^$", ".*")

	wantLines(t, findings(t, []string{v.URLAt(down.Addr), v.URL}, Queue{Name: "other", EnvPrefix: "WARREN_QUEUE_OTHER_"}, Queue{Name: "absent", Passive: true, EnvPrefix: "WARREN_QUEUE_ABSENT_", Exchange: "shop"}),
		"FAIL node "+down.Addr+": dial tcp", "connection refused", "ok node "+v.Node.Addr(),
		"FAIL queue other: exists with another", "WARREN_QUEUE_OTHER_DECLARE=false",
		"FAIL queue absent: is missing", "FAIL exchange shop: is missing")
	wantLines(t, findings(t, []string{writer}, Queue{Name: "orders"}), "FAIL queue orders: not permitted", "read")
	denied := v.AddUser(t, "denied-"+user, "pw", "^warren\\.", ".*", ".*")
	wantLines(t, findings(t, []string{denied}, Queue{Name: "new"}), "FAIL queue new: not permitted", "FAIL queue new.dead: not permitted", "ok wait queues of new: 0 of 12 are there")
	denied = v.AddUser(t, "waits-"+user, "pw", "^new", ".*", ".*")
	wantLines(t, findings(t, []string{denied}, Queue{Name: "new"}), "ok queue new: is missing; warren declares it when it starts", "FAIL wait queues of new: wait queue warren.wait.new.", "not permitted")
	if _, err := v.Channel(t).QueueDeclarePassive("new", true, false, false, false, nil); err == nil {
		t.Error("Check has declared the queue")
	}
	wantLines(t, findings(t, []string{reader}, Queue{Name: "orders"}), `FAIL publishing: not permitted`)
	wantLines(t, findings(t, []string{v.URLAt(down.Addr)}, Queue{Name: "orders"}), "FAIL queues: not looked at: no node can be used")
}

func TestPublish(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "orders", nil)
	err := operator.Publish(t.Context(), []string{v.URL}, Message{RoutingKey: "orders", Body: []byte("{}"), MessageID: "m", Type: "order", Priority: 3,
		Headers: map[string]any{"n": int64(1), "nested": map[string]any{"list": []any{"a", true}}}})
	equal(t, err, nil)
	got := v.Drain(t, "orders")[0]
	equal(t, []any{got.MessageId, got.Type, got.ContentType, got.DeliveryMode, got.Headers["n"], got.Headers["nested"]},
		[]any{"m", "order", "application/json", uint8(2), int64(1), amqp.Table{"list": []any{"a", true}}})

	for want, m := range map[string]Message{
		"there is no queue nobody":                                        {RoutingKey: "nobody"},
		"there is no exchange shop":                                       {Exchange: "shop", RoutingKey: "k"},
		"exchange amq.topic has no queue bound for the routing key \"k\"": {Exchange: "amq.topic", RoutingKey: "k"},
		"value chan int not supported":                                    {RoutingKey: "orders", Headers: map[string]any{"c": make(chan int)}},
	} {
		if err := operator.Publish(t.Context(), []string{v.URL}, m); !strings.Contains(errorText(err), want) {
			t.Errorf("error %q, want %q", errorText(err), want)
		}
	}
}
