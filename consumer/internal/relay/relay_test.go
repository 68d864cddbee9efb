package relay

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// What the broker does not answer for in time is not taken for published. Of each
// target one message is blamed, so that the others can go on.
func TestABatchThatIsNotConfirmed(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "a", nil)
	v.Declare(t, "b", nil)
	proxy := rabbittest.NewProxy(t, v.Node.Addr())
	log := slog.New(slog.DiscardHandler)
	r := &Relay{
		Node: func() string { return v.URLAt(proxy.Addr) }, Log: log,
	}
	defer r.hangUp()
	batch := []broker.Message{{RoutingKey: "a"}, {RoutingKey: "b"}, {RoutingKey: "a"}, {RoutingKey: "b"}}
	publish := func(n int) (confirmed, blamed, unanswered int) {
		for _, err := range r.publish(t.Context(), t.Context(), batch[:n]) {
			switch {
			case err == nil:
				confirmed++
			case errors.Is(err, broker.ErrNoConfirm):
				blamed++
			case errors.Is(err, broker.ErrBroker):
				unanswered++
			default:
				t.Errorf("got %v", err)
			}
		}
		return confirmed, blamed, unanswered
	}
	for _, test := range []struct{ n, blamed int }{{4, 2}, {1, 1}} {
		r.Timeout = time.Minute
		if confirmed, _, _ := publish(test.n); confirmed != test.n {
			t.Errorf("got %d confirmed, want %d", confirmed, test.n)
		}
		proxy.Stall(rabbittest.FromNode)
		r.Timeout = 2 * time.Second
		confirmed, blamed, unanswered := publish(test.n)
		if confirmed != 0 || blamed != test.blamed || unanswered != test.n-blamed {
			t.Errorf("got %d confirmed, %d blamed and %d unanswered of %d, want none, %d and the rest", confirmed, blamed, unanswered, test.n, test.blamed)
		}
		proxy.Restore(t)
	}
}
