package consumer

import (
	"regexp"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestLongWorkOutlivesTheConsumerTimeout has an attempt take longer than the broker's
// consumer timeout: where a consumer may ask for a longer one, that is enough; elsewhere
// the log says what to do, and that is.
func TestLongWorkOutlivesTheConsumerTimeout(t *testing.T) {
	v := rabbittest.NewVhost(t)
	var version struct{ policy, argument bool }
	conn := dial(t, v.URL)
	version.policy, version.argument = conn.Version.TimeoutPolicy, conn.Version.TimeoutArgument
	h := newHeld()
	release := releaser(t, h.release)
	queue := Queue{Name: "long", Timeout: time.Hour, Processor: h, EnvPrefix: "WARREN_QUEUE_LONG_"}

	first := run(t, []string{v.URL}, queue)
	const warned = "attempts may take longer than the broker allows"
	equal(t, contains(first.log, warned), !version.argument)
	equal(t, strings.Contains(findings(t, []string{v.URL}, queue), "timeout of long"), !version.argument)
	timeout := "1000"
	switch log := first.log.String(); {
	case version.argument:
	case version.policy:
		definition := regexp.MustCompile(`'(\{\S+consumer-timeout\S+\})'`).FindStringSubmatch(log)
		if definition == nil {
			t.Fatalf("the log has no policy")
		}
		v.SetPolicy(t, "long-timeout", "^long$", strings.ReplaceAll(definition[1], `\`, ""), "queues")
	default:
		line := regexp.MustCompile(`consumer_timeout = (\d+)`).FindStringSubmatch(log)
		if line == nil {
			t.Fatalf("the log has no line of rabbitmq.conf")
		}
		timeout = line[1]
	}
	if _, err := first.end(); err != nil {
		t.Fatal(err)
	}

	setEnv(t, v, "channel_tick_interval", "200", "60000")
	setEnv(t, v, "consumer_timeout", timeout, "1800000")
	long := run(t, []string{v.URL}, queue)
	short := run(t, []string{v.URL}, Queue{Name: "short", Processor: h}) // over connections of its own
	for _, queue := range []string{"long", "short"} {
		v.Publish(t, queue, amqp.Publishing{MessageId: queue})
		<-h.started
	}
	if timeout == "1000" { // it is in force
		rabbittest.Eventually(t, 2*time.Minute, func() bool { return strings.Count(short.log.String(), "msg=consuming") >= 3 }, "the other queue's delivery is taken away")
	} else {
		<-time.After(2 * time.Second)
	}
	equal(t, strings.Count(long.log.String(), "msg=consuming"), 1)
	release()
	empty(t, v, "long", "short", "long.dead", "short.dead")
}

// What usually is enough is not asked for, nor warned of.
func TestShortWorkAsksForNothing(t *testing.T) {
	q := Config{Queues: []Queue{{Name: "q"}}}.withDefaults().Queues[0]
	if b := q.onBroker(); b.Held != 10*time.Minute || b.LongWork(broker.Version{}) != "" {
		t.Errorf("by default a delivery is held for %v and warned of with %q, want 10m and nothing", b.Held, b.LongWork(broker.Version{}))
	}
}
