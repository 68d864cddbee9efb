package cli

import (
	"bytes"
	"errors"
	"testing"

	"github.com/warrenmq/warren/consumer/operator"
)

func TestOutcomes(t *testing.T) {
	for n, want := range map[int]string{
		1: "1 dead letter was left where it was, since it cannot be published: it is too long",
		2: "2 dead letters were left where they were, since they cannot be published: it is too long",
	} {
		var out bytes.Buffer
		p := picking{picked: &picked{}, queue: "orders", one: "dead letter", several: "dead letters"}
		err := p.outcome(App{Out: &out}, "replayed", operator.Done{Done: 1, Left: n, Why: errors.New("it is too long")}, nil)
		if err == nil || err.Error() != want || out.String() != "replayed 1 dead letter of orders\n" {
			t.Errorf("got %q and %v, want %s", out.String(), err, want)
		}
	}
}
