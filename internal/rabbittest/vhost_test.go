package rabbittest

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// numbered is a message of 1 KiB that says its number.
func numbered(i int) amqp.Publishing {
	return amqp.Publishing{MessageId: strconv.Itoa(i), Body: make([]byte, 1024)}
}

// checkNumbered checks that there are n numbered messages, in order.
func checkNumbered(t *testing.T, got []amqp.Delivery, n int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("messages: got %d, want %d", len(got), n)
	}
	for i, d := range got {
		if d.MessageId != strconv.Itoa(i) || len(d.Body) != 1024 {
			t.Fatalf("message %d: got id %s and %d bytes, want the same id and 1024 bytes", i, d.MessageId, len(d.Body))
		}
	}
}

func TestPublishAndDrainTensOfThousands(t *testing.T) {
	const n = 25_000
	v := NewVhost(t)
	v.Declare(t, "many", nil)
	started := time.Now()
	v.PublishN(t, "many", n, numbered)
	t.Logf("%.0f messages a second went in", n/time.Since(started).Seconds())
	if got := v.Ready(t, "many"); got != n {
		t.Errorf("ready after all confirms: got %d, want %d", got, n)
	}
	started = time.Now()
	drained := v.Drain(t, "many")
	checkNumbered(t, drained, n)
	if got := drained[0].DeliveryMode; got != amqp.Persistent {
		t.Errorf("delivery mode: got %d, want %d", got, amqp.Persistent)
	}
	t.Logf("%.0f messages a second came out", n/time.Since(started).Seconds())
	Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "many") == 0 && v.Unacked(t, "many") == 0 }, "the queue is empty")
}

func TestPublishFailsIfAMessageIsNotKept(t *testing.T) {
	v := NewVhost(t)
	v.Declare(t, "full", amqp.Table{amqp.QueueMaxLenArg: 2, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish})
	for _, c := range []struct{ queue, want string }{
		{"missing", "NO_ROUTE"},
		{"full", "got false"},
	} {
		got := failureOf(t, func(t testing.TB) { v.PublishN(t, c.queue, 1000, numbered) })
		if !strings.Contains(got, c.want) {
			t.Errorf("publish to a queue that is %s: got failure %q, want one with %s", c.queue, got, c.want)
		}
	}
}

func TestEachTestHasItsOwnVhost(t *testing.T) {
	one, other := NewVhost(t), NewVhost(t)
	one.Declare(t, "q", nil)
	one.Publish(t, "q", numbered(0))
	if got := one.Ready(t, "q"); got != 1 {
		t.Errorf("ready in the vhost with the queue: got %d, want 1", got)
	}
	if got := other.Ready(t, "q"); got != -1 {
		t.Errorf("ready in another vhost: got %d, want -1 for no such queue", got)
	}
	one.DeleteQueue(t, "q")
	if got := one.Ready(t, "q"); got != -1 {
		t.Errorf("ready after the queue was deleted: got %d, want -1 for no such queue", got)
	}
}

func TestAVhostIsGoneAfterItsTest(t *testing.T) {
	var names []string
	t.Run("with a vhost", func(t *testing.T) {
		v := NewVhost(t)
		v.Declare(t, "q", nil)
		names = append(names, v.Name)
	})
	out, err := NewVhost(t).Node.Eval("[binary_to_list(V) || V <- rabbit_vhost:list_names()]")
	if err != nil || strings.Contains(out, names[0]) {
		t.Errorf("vhosts: got %s and error %v, want none called %s", out, err, names[0])
	}
}

func TestCountsAreOfThisMoment(t *testing.T) {
	for _, kind := range []string{amqp.QueueTypeQuorum, amqp.QueueTypeClassic} {
		t.Run(kind, func(t *testing.T) {
			v := NewVhost(t)
			v.Declare(t, "q", amqp.Table{amqp.QueueTypeArg: kind})
			v.PublishN(t, "q", 5, numbered)
			check := func(ready, unacked, consumers int) {
				t.Helper()
				want := []int{ready, unacked, consumers}
				if got := []int{v.Ready(t, "q"), v.Unacked(t, "q"), v.Consumers(t, "q")}; !slices.Equal(got, want) {
					t.Errorf("ready, unacknowledged and consumers: got %v, want %v", got, want)
				}
			}
			check(5, 0, 0)
			ch := v.Channel(t)
			if err := ch.Qos(2, 0, false); err != nil {
				t.Fatal(err)
			}
			deliveries, err := ch.Consume("q", "", false, false, false, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			await(t, deliveries, "first delivery")
			await(t, deliveries, "second delivery")
			check(3, 2, 1)
		})
	}
}

func TestUsersHaveTheirPermissionsOnly(t *testing.T) {
	v := NewVhost(t)
	v.Declare(t, "q", nil)
	url := v.AddUser(t, "reader", "secret: /@", "", "", "q")
	ch, err := dial(t, url).Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ch.Get("q", true); err != nil {
		t.Errorf("read with permission: got error %v, want nil", err)
	}
	_, err = ch.QueueDeclare("new", true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum})
	if refused, ok := errors.AsType[*amqp.Error](err); !ok || refused.Code != amqp.AccessRefused {
		t.Errorf("declare without permission: got error %v, want code %d", err, amqp.AccessRefused)
	}
	if _, err := amqp.Dial(amqpURL("amqp", "reader", "wrong", v.Node.Addr(), v.Name)); err == nil {
		t.Error("connect with a wrong password: got a connection, want an error")
	}
}

func TestPoliciesApply(t *testing.T) {
	v := NewVhost(t)
	v.Declare(t, "short", nil)
	v.SetPolicy(t, "limit", "^short$", `{"max-length": 3, "overflow": "reject-publish"}`, "queues")
	got := failureOf(t, func(t testing.TB) { v.PublishN(t, "short", 1000, numbered) })
	if want := "got false"; !strings.Contains(got, want) {
		t.Errorf("publish beyond the policy's limit: got failure %q, want one with %s", got, want)
	}
	got = failureOf(t, func(t testing.TB) { v.SetPolicy(t, "wrong", ".*", `{"max-lengh": 3}`, "queues") })
	if want := "max-lengh"; !strings.Contains(got, want) {
		t.Errorf("policy with a misspelt key: got failure %q, want one with %s", got, want)
	}
}

func TestAQueueLosesItsLeaderAndGetsItBack(t *testing.T) {
	v := NewVhost(t)
	v.Declare(t, "q", nil)
	v.Declare(t, "other", nil)
	v.PublishN(t, "q", 100, numbered)
	restore := v.LoseLeader(t, "q")

	conn := dial(t, v.URL)
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ch.Get("q", false); err == nil {
		t.Error("get from a queue without a leader: got nil, want an error")
	}
	if reason := await(t, closed, "close of the connection"); reason == nil || reason.Code != amqp.InternalError {
		t.Errorf("close of the connection that asked: got %v, want code %d", reason, amqp.InternalError)
	}
	v.Publish(t, "other", numbered(0))
	checkNumbered(t, v.Drain(t, "other"), 1)

	restore()
	Eventually(t, patience, func() bool {
		_, _, _, _, err := v.Node.counts(v.Name, "q")
		return err == nil
	}, "the queue has a leader again")
	checkNumbered(t, v.Drain(t, "q"), 100)

	v.LoseLeader(t, "q") // and the end of the test mends it
}

func TestConnectionsAndChannelsAreCounted(t *testing.T) {
	v, other := NewVhost(t), NewVhost(t)
	conn := dial(t, v.URL)
	dial(t, v.URL)
	dial(t, other.URL)
	for range 3 {
		if _, err := conn.Channel(); err != nil {
			t.Fatal(err)
		}
	}
	check := func(v *Vhost, connections, channels int) {
		t.Helper()
		if gotConnections, gotChannels := v.Connections(t); gotConnections != connections || gotChannels != channels {
			t.Errorf("connections and channels: got %d and %d, want %d and %d", gotConnections, gotChannels, connections, channels)
		}
	}
	check(v, 2, 3)
	check(other, 1, 0)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, patience, func() bool {
		connections, channels := v.Connections(t)
		return connections == 1 && channels == 0
	}, "the closed connection is not counted")
}

// TestTheNodeIsUnwellForAWhile has the write-ahead log of the node be down for a second,
// as it is when RabbitMQ 3.10 has fallen over the deletion of a queue.
func TestTheNodeIsUnwellForAWhile(t *testing.T) {
	var name string
	fall := func(t *testing.T, v *Vhost) {
		if err := v.Node.do(`begin
			ok = supervisor:terminate_child(ra_log_sup, ra_log_wal_sup),
			{ok, _} = timer:apply_after(1000, supervisor, restart_child, [ra_log_sup, ra_log_wal_sup]),
			ok end`); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("the vhost is deleted", func(t *testing.T) {
		v := NewVhost(t)
		name = v.Name
		for _, queue := range []string{"a", "b", "c"} {
			v.Declare(t, queue, nil)
			v.Publish(t, queue, numbered(0))
		}
		fall(t, v)
	})
	v := NewVhost(t)
	out, err := v.Node.Eval("[binary_to_list(V) || V <- rabbit_vhost:list_names()]")
	if err != nil || strings.Contains(out, name) {
		t.Errorf("vhosts: got %s and error %v, want none called %s", out, err, name)
	}
	fall(t, v)
	v.Declare(t, "q", nil)
	v.Publish(t, "q", numbered(0))
	checkNumbered(t, v.Drain(t, "q"), 1)
	fall(t, v)
	v.DeleteQueue(t, "q")
}
