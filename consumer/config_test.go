package consumer

import (
	"context"
	"strings"
	"testing"
	"time"
)

var noop = ProcessorFunc(func(context.Context, Delivery, *Scope) error { return nil })

func TestValidateNamesEveryFault(t *testing.T) {
	err := Config{
		ShutdownTimeout: -time.Second,
		Queues: []Queue{
			{Name: "a", Processor: noop},
			{Name: "a", EnvPrefix: "A_", Concurrency: -1, Prefetch: 70000, Timeout: -1, MaxAttempts: -1, RetryBase: time.Hour, RetryMax: time.Minute, Type: "stream", MaxPriority: 5, RoutingKeys: []string{"x"}, Rate: -1},
			{Name: "warren.wait.7s", Processor: noop},
			{Name: strings.Repeat("n", 251), Processor: noop},
			{Name: "b", Processor: noop, EnvPrefix: "B_", Concurrency: 10, Prefetch: 5},
		},
	}.Validate()
	for _, want := range []string{
		"no node", "the shutdown timeout is negative", "queue a stands in the list of queues twice", "queue a has no processor",
		"A_CONCURRENCY is -1", "A_PREFETCH is 70000", "A_TIMEOUT is -1ns", "A_MAX_ATTEMPTS is -1", "A_RETRY_MAX is 1m0s; it must be at least A_RETRY_BASE (1h0m0s)",
		`A_TYPE is "stream"; it must be quorum or classic`, "A_MAX_PRIORITY is for classic queues", "A_ROUTING_KEYS is set, but not A_EXCHANGE", "A_RATE is -1",
		"queue warren.wait.7s: names that begin with warren.", "is too long", "B_PREFETCH is 5; it must be from the concurrency (10)",
	} {
		if !strings.Contains(errorText(err), want) {
			t.Errorf("the error lacks %q; it is:\n%v", want, err)
		}
	}
}

func TestZeroMeansTheDefault(t *testing.T) {
	cfg := Config{Nodes: []string{"amqp://localhost"}, Queues: []Queue{{Name: "a", Processor: noop}}}
	equal(t, cfg.Validate(), nil)
	q := cfg.withDefaults().Queues[0]
	equal(t, []any{q.Concurrency, q.Prefetch, q.Timeout, q.MaxAttempts, q.RetryBase, q.RetryMax, q.Type, cfg.withDefaults().ShutdownTimeout},
		[]any{8, 16, 5 * time.Minute, 20, time.Second, time.Hour, "quorum", 25 * time.Second})
}
