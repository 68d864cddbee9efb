package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A neighbour is an innocent queue beside one that is in trouble. Every other one of its
// messages fails once, so that its retries are seen to come home.
type neighbour struct {
	*ledger
	sent   int
	latest time.Duration // of its retries, beyond the second that they wait
}

func newNeighbour() *neighbour { return &neighbour{ledger: newLedger()} }

func (n *neighbour) queue() Queue {
	return Queue{Name: "neighbour", Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		n.write(d)
		if d.Type == "fails once" && d.Attempt == 1 {
			return errors.New("fails once")
		}
		return nil
	})}
}

// works has the neighbour work 20 messages, and expects its retries in time.
func (n *neighbour) works(t *testing.T, v *rabbittest.Vhost) {
	t.Helper()
	const messages = 20
	first := n.sent
	n.sent += messages
	v.PublishN(t, "neighbour", messages, func(i int) amqp.Publishing {
		return amqp.Publishing{MessageId: fmt.Sprint(first + i), Type: []string{"", "fails once"}[i%2], DeliveryMode: amqp.Persistent}
	})
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		for i := range messages {
			if len(n.of(fmt.Sprint(first+i))) < 1+i%2 {
				return false
			}
		}
		return true
	}, "the neighbour's messages are done, those that fail once as well")
	for i := 1; i < messages; i += 2 {
		at := n.of(fmt.Sprint(first + i))
		n.latest = max(n.latest, at[1].Sub(at[0])-time.Second)
	}
}

// undisturbed holds the neighbour to having lost no connection and repeated nothing.
func (n *neighbour) undisturbed(t *testing.T, r *running) {
	t.Helper()
	for i := range n.sent {
		if got, want := len(n.of(fmt.Sprint(i))), 1+i%2; got != want {
			t.Errorf("the neighbour's message %d had %d attempts, want %d", i, got, want)
		}
	}
	if lost := strings.Count(r.log.String(), "connection lost"); lost != 0 {
		t.Errorf("%d connections were lost, want none", lost)
	}
	t.Logf("the neighbour did %d messages, its retries at most %v late", n.sent, n.latest.Round(time.Millisecond))
}

// setEnv sets a variable of the broker's application until the test ends.
func setEnv(t *testing.T, v *rabbittest.Vhost, name, value, usual string) {
	t.Helper()
	set := func(value string) {
		if _, err := v.Node.Eval(fmt.Sprintf("application:set_env(rabbit, %s, %s)", name, value)); err != nil {
			t.Error(err)
		}
	}
	set(value)
	t.Cleanup(func() { set(usual) })
}
