package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/operator/filter"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// declare declares a work queue and its dead-letter queue as a daemon does.
func declare(t *testing.T, v *rabbittest.Vhost, queue string) {
	t.Helper()
	v.Declare(t, queue, amqp.Table{
		"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue + ".dead",
		"x-dead-letter-strategy": "at-least-once", "x-delivery-limit": int64(20),
	})
	v.Declare(t, queue+".dead", amqp.Table{"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": int64(1_000_000)})
}

// bury publishes n dead letters, as a daemon does: m-0, m-1 and so on.
func bury(t *testing.T, v *rabbittest.Vhost, queue string, n int) {
	t.Helper()
	v.PublishN(t, queue+".dead", n, func(i int) amqp.Publishing { return letter(queue, i) })
}

func letter(queue string, i int) amqp.Publishing {
	reason := "exhausted"
	if i%3 == 0 {
		reason = "permanent"
	}
	return amqp.Publishing{
		MessageId: fmt.Sprintf("m-%d", i), Type: "order", ContentType: "application/json", Timestamp: time.Unix(1_700_000_000, 0),
		CorrelationId: "c", ReplyTo: "answers", AppId: "shop", Body: fmt.Appendf(nil, `{"n":%d}`, i),
		Headers: amqp.Table{
			"tenant": "blue", "x-warren-reason": reason, "x-warren-error": fmt.Sprintf("order %d: 451 try again", i), "x-warren-attempt": int64(20),
			"x-warren-failed-at": time.Now().Add(-time.Hour).UnixMilli(), "x-warren-first-failed-at": int64(1_700_000_000_000),
			"x-warren-exchange": "shop", "x-warren-routing-key": "order.made", "x-warren-worker": "vm1 1.0", "x-warren-original-user-id": "shop",
			"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		},
	}
}

func brokerOf(v *rabbittest.Vhost) Broker { return Broker{Nodes: []string{v.URL}} }

// filtered is the selection of a filter.
func filtered(t *testing.T, text string) Selection {
	t.Helper()
	f, err := filter.Parse(text, LetterFields)
	if err != nil {
		t.Fatal(err)
	}
	return Selection{Filter: f}
}

// ids lists the ids of the dead letters that are meant.
func ids(t *testing.T, v *rabbittest.Vhost, queue string, which Selection) (all []string) {
	t.Helper()
	_, err := brokerOf(v).Letters(t.Context(), queue, which, func(l *Letter) error {
		all = append(all, l.ID)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestLettersSayWhyTheyAreDead(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 1)
	v.Publish(t, "orders.dead", amqp.Publishing{Body: []byte("moved by hand")}, amqp.Publishing{MessageId: "of-a-wait", Headers: amqp.Table{
		"x-warren-reason": "exhausted", "x-warren-error": "no\x1b[31m stock", "x-warren-attempt": int64(3), "x-warren-replayed": int64(2),
	}})
	for queue, args := range map[string]amqp.Table{
		"expired":        {"x-message-ttl": int64(1)},
		"maxlen":         {"x-max-length": int64(1)},
		"rejected":       {},
		"delivery_limit": {"x-delivery-limit": int64(1)},
	} {
		args["x-queue-type"], args["x-dead-letter-exchange"], args["x-dead-letter-routing-key"] = "quorum", "", "orders.dead"
		v.Declare(t, queue, args)
		// A publisher's own claim about why it failed is not believed.
		v.Publish(t, queue, amqp.Publishing{MessageId: queue, Headers: amqp.Table{"x-warren-reason": "permanent", "x-warren-error": "believe me", "x-warren-attempt": int64(9)}})
	}
	v.Publish(t, "maxlen", amqp.Publishing{})
	ch := v.Channel(t)
	for _, queue := range []string{"rejected", "delivery_limit", "delivery_limit"} {
		rabbittest.Eventually(t, rabbittest.Soon, func() bool {
			d, ok, err := ch.Get(queue, false)
			if err != nil {
				t.Fatal(err)
			}
			return ok && d.Reject(queue == "delivery_limit") == nil
		}, "the message is rejected")
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead") == 7 }, "all are dead")

	got := make(map[string]string)
	looked, err := brokerOf(v).Letters(t.Context(), "orders", Selection{}, func(l *Letter) error {
		got[l.ID] = fmt.Sprint(l.Queue, "|", l.Reason, "|", l.Error, "|", l.Attempts, "|", l.Replayed, "|", l.DeadAt.IsZero())
		if strings.HasPrefix(l.ID, "~") {
			got["~"] = got[l.ID]
			delete(got, l.ID)
		}
		return nil
	})
	if err != nil || looked.All != 7 || looked.Matched != 7 || looked.InVain != 0 {
		t.Errorf("got %+v and error %v, want 7 of 7", looked, err)
	}
	want := map[string]string{
		"m-0":            "orders|permanent|order 0: 451 try again|20|0|false",
		"~":              "orders|unknown||0|0|true",
		"of-a-wait":      "orders|exhausted|no\x1b[31m stock|3|2|true",
		"expired":        "expired|expired|it expired before it was worked|0|0|false",
		"maxlen":         "maxlen|maxlen|its queue was full|0|0|false",
		"rejected":       "rejected|rejected|a consumer rejected it whole; the log of its worker says why|0|0|false",
		"delivery_limit": "delivery_limit|delivery_limit|it was handed out in vain too often; it may kill its worker|0|0|false",
	}
	for id := range want {
		if got[id] != want[id] {
			t.Errorf("%s: got %s, want %s", id, got[id], want[id])
		}
	}
}

// A hundred looks at the same queue lose nothing, and change what the documentation says.
func TestAHundredLooks(t *testing.T) {
	t.Parallel()
	const n, looks = 300, 100
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", n)
	for i := range looks {
		rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "orders.dead") == n }, "what was looked at is back")
		if got := ids(t, v, "orders", Selection{}); len(got) != n {
			t.Fatalf("look %d: got %d dead letters, want %d", i+1, len(got), n)
		}
	}
	all := v.Drain(t, "orders.dead")
	if len(all) != n {
		t.Fatalf("got %d dead letters, want %d", len(all), n)
	}
	inPlace := 0
	seen := make(map[string]bool)
	for i, d := range all {
		var number int
		if _, err := fmt.Sscanf(d.MessageId, "m-%d", &number); err != nil || seen[d.MessageId] {
			t.Fatalf("message %q, error %v, seen before %t", d.MessageId, err, seen[d.MessageId])
		}
		seen[d.MessageId] = true
		if number == i {
			inPlace++
		}
		counts := integer(d.Headers, "x-delivery-count")
		if strings.HasPrefix(v.Node.Version(), "4.3") != (counts == 0) || counts > looks {
			t.Errorf("%s: x-delivery-count is %d after %d looks on RabbitMQ %s", d.MessageId, counts, looks, v.Node.Version())
		}
		want := letter("orders", number)
		delete(d.Headers, "x-delivery-count")
		delete(d.Headers, "x-acquired-count")
		d.Headers["x-warren-failed-at"], want.Headers["x-warren-failed-at"] = nil, nil
		if fmt.Sprint(d.Headers) != fmt.Sprint(want.Headers) || string(d.Body) != string(want.Body) || d.ReplyTo != want.ReplyTo || !d.Timestamp.Equal(want.Timestamp) {
			t.Fatalf("%s: got %v %q, want %v %q", d.MessageId, d.Headers, d.Body, want.Headers, want.Body)
		}
	}
	if inPlace != n {
		t.Errorf("%d of %d are where they were, want all", inPlace, n)
	}
	t.Logf("RabbitMQ %s: %d of %d are where they were", v.Node.Version(), inPlace, n)
}

func TestGroups(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 300)
	groups, looked, err := brokerOf(v).Groups(t.Context(), "orders", Selection{})
	if err != nil || looked.All != 300 || len(groups) != 2 {
		t.Fatalf("got %+v, %+v and error %v, want 2 groups of 300", groups, looked, err)
	}
	g := groups[0]
	if g.Count != 200 || g.Reason != "exhausted" || g.Error != "order <n>: <n> try again" || groups[1].Count != 100 || g.First.IsZero() || g.Last.Before(g.First) {
		t.Errorf("got %+v", groups)
	}
	if got := ids(t, v, "orders", filtered(t, "group = "+groups[1].ID)); len(got) != 100 || got[0] != "m-0" {
		t.Errorf("of the second group: got %d, the first of them %s; want 100 and m-0", len(got), got[0])
	}
}

func TestSelections(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 10)
	for _, test := range []struct {
		which Selection
		want  string
	}{
		{Selection{Most: 2}, "m-0 m-1"},
		{Selection{IDs: []string{"m-7", "m-3", "nobody"}}, "m-3 m-7"},
		{filtered(t, "body.n >= 8"), "m-8 m-9"},
		{filtered(t, "reason = permanent and body.n > 1"), "m-3 m-6 m-9"},
		{filtered(t, "header.tenant = red"), ""},
	} {
		if got := strings.Join(ids(t, v, "orders", test.which), " "); got != test.want {
			t.Errorf("%+v: got %q, want %q", test.which, got, test.want)
		}
	}
}

// The first of them are the same for all that look and act, whatever was looked at before: a
// quorum queue hands out what it was given back before the rest, in the order in which it was.
func TestTheFirstOfThem(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	const n = 101
	bury(t, v, "orders", n)
	from := func(first, most int) (want []string) {
		for i := first; i < first+most; i++ {
			want = append(want, fmt.Sprintf("m-%d", i))
		}
		return want
	}
	b := brokerOf(v)
	look := func(most, first int) {
		t.Helper()
		if got, want := ids(t, v, "orders", Selection{Most: most}), from(first, most); !slices.Equal(got, want) {
			t.Errorf("RabbitMQ %s: the first %d are %v, want %v", v.Node.Version(), most, got, want)
		}
	}
	look(2, 0)
	look(17, 0)
	if _, _, err := b.Groups(t.Context(), "orders", Selection{}); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		look(2, 0)
	}
	look(20, 0)
	archive := &failing{syncs: 1}
	done, err := b.Discard(t.Context(), "orders", Selection{Most: 3}, archive, quiet)
	if err != nil || done.Done != 3 {
		t.Errorf("discard: %+v, %v", done, err)
	}
	var gone []string
	if _, err := Lines(&archive.Buffer, func(l Line) error { gone = append(gone, string(l.MessageID)); return nil }); err != nil || !slices.Equal(gone, from(0, 3)) {
		t.Errorf("discarded %v, %v", gone, err)
	}
	look(2, 3)
	var replayed []string
	which := Selection{Most: 10, Found: func(id string) { replayed = append(replayed, id) }}
	for range 2 { // as after the canaries
		if done, err := b.Replay(t.Context(), "orders", which, ReplayOptions{}, quiet); err != nil || done.Done != 10 {
			t.Errorf("replay: %+v, %v", done, err)
		}
	}
	if !slices.Equal(replayed, from(3, 20)) {
		t.Errorf("replayed %v", replayed)
	}
	if got := ids(t, v, "orders", Selection{}); !slices.Equal(got, from(23, n-23)) {
		t.Errorf("what is left is %v", got)
	}
}

func TestLooksThatEndEarly(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", 3000)
	boom := errors.New("boom")
	seen := 0
	_, err := brokerOf(v).Letters(t.Context(), "orders", Selection{}, func(*Letter) error {
		if seen++; seen == 1500 {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) || v.Ready(t, "orders.dead") != 3000 {
		t.Errorf("got error %v, %d ready; want that of each, and all 3000", err, v.Ready(t, "orders.dead"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = brokerOf(v).Letters(ctx, "orders", Selection{}, func(*Letter) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) || v.Ready(t, "orders.dead") != 3000 {
		t.Errorf("got error %v, %d ready; want context.Canceled, and all 3000", err, v.Ready(t, "orders.dead"))
	}
	if _, err := brokerOf(v).Letters(t.Context(), "nobody", Selection{}, nil); err == nil || !strings.Contains(err.Error(), "there is no queue nobody.dead") {
		t.Errorf("of a queue that there is not: got %v", err)
	}
}

// A queue that somebody else has declared may have RabbitMQ's own delivery limit.
func TestNearTheDeliveryLimit(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "own", amqp.Table{"x-queue-type": "quorum"})
	v.Declare(t, "own.dead", amqp.Table{"x-queue-type": "quorum"})
	v.Publish(t, "own.dead", amqp.Publishing{MessageId: "m"})
	var inVain []int
	for range nearLimit + 2 {
		looked, err := brokerOf(v).Letters(t.Context(), "own", Selection{}, func(*Letter) error { return nil })
		if err != nil || looked.All != 1 {
			t.Fatalf("got %+v and error %v", looked, err)
		}
		inVain = append(inVain, looked.InVain)
	}
	want := make([]int, nearLimit+2)
	if !strings.HasPrefix(v.Node.Version(), "4.3") {
		want[nearLimit], want[nearLimit+1] = nearLimit, nearLimit+1
	}
	if !slices.Equal(inVain, want) {
		t.Errorf("RabbitMQ %s: got %v, want %v", v.Node.Version(), inVain, want)
	}
	// Who sees for long what becomes of canaries would have them dropped.
	_, err := brokerOf(v).Fate(t.Context(), "own", []string{"m"})
	if near := want[nearLimit] > 0; near != (err != nil && strings.Contains(err.Error(), "rabbitmqctl set_policy")) {
		t.Errorf("RabbitMQ %s: of canaries, got error %v", v.Node.Version(), err)
	}
}

// What is limited leaves the rest alone where each time that it is handed out may count towards
// RabbitMQ's own delivery limit, of 20 from 4.0 on. Before, there is none: what holds there is that
// nothing is counted that often.
func TestTheRestIsNotDrivenToTheDeliveryLimit(t *testing.T) {
	t.Parallel()
	const n, acts = 100, 25
	v := rabbittest.NewVhost(t)
	v.Declare(t, "own", amqp.Table{"x-queue-type": "quorum"})
	v.Declare(t, "own.dead", amqp.Table{"x-queue-type": "quorum"})
	bury(t, v, "own", n)
	b := brokerOf(v)
	if _, _, err := b.Groups(t.Context(), "own", Selection{}); err != nil {
		t.Fatal(err)
	}
	for range acts {
		if got := ids(t, v, "own", Selection{Most: 1}); len(got) != 1 {
			t.Fatalf("RabbitMQ %s: got %v", v.Node.Version(), got)
		}
	}
	if done, err := b.Replay(t.Context(), "own", Selection{Most: 1}, ReplayOptions{}, quiet); err != nil || done.Done != 1 {
		t.Fatalf("replay: %+v, %v", done, err)
	}
	if done, err := b.Discard(t.Context(), "own", Selection{Most: 1}, nil, quiet); err != nil || done.Done != 1 {
		t.Fatalf("discard: %+v, %v", done, err)
	}
	left := v.Drain(t, "own.dead")
	most := int64(0)
	for _, d := range left {
		most = max(most, integer(d.Headers, "x-delivery-count"))
	}
	if len(left) != n-2 || most >= nearLimit {
		t.Errorf("RabbitMQ %s: %d are left, want %d; one of them was handed out %d times", v.Node.Version(), len(left), n-2, most)
	}
}
