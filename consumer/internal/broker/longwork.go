package broker

import (
	"fmt"
	"regexp"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// usualConsumerTimeout is how long RabbitMQ leaves a delivery unacknowledged, unless it
	// is told otherwise. Nothing that a client may ask for says what it has been told.
	usualConsumerTimeout = 30 * time.Minute
	// settling is what a delivery may take beyond its work: until its outcome is published.
	settling = 5 * time.Minute
)

// consumerTimeout is the consumer timeout that the queue needs; zero if the usual one does.
func (q Queue) consumerTimeout() time.Duration {
	if q.Held+settling <= usualConsumerTimeout {
		return 0
	}
	return q.Held + settling
}

// ConsumeArguments are those that the queue is consumed with: where a consumer may have a
// timeout of its own, one that is long enough.
func (q Queue) ConsumeArguments(v Version) amqp.Table {
	if t := q.consumerTimeout(); t > 0 && v.TimeoutArgument && q.Type == Quorum {
		return amqp.Table{"x-consumer-timeout": t.Milliseconds()}
	}
	return nil
}

// LongWork says what the broker does to work that takes long, and how to have it done
// otherwise. It is empty if nothing has to be.
func (q Queue) LongWork(v Version) string {
	t := q.consumerTimeout()
	if t == 0 || v.TimeoutArgument { // a classic queue has none there
		return ""
	}
	cure := fmt.Sprintf("write consumer_timeout = %d into rabbitmq.conf of each node, and restart it", t.Milliseconds())
	if v.TimeoutPolicy {
		cure = fmt.Sprintf(`rabbitmqctl set_policy %s-timeout '^%s$' '{"consumer-timeout":%d}' --apply-to queues (or add that to the policy that the queue has)`,
			q.Name, regexp.QuoteMeta(q.Name), t.Milliseconds())
	}
	return fmt.Sprintf("by %sTIMEOUT, PREFETCH and CONCURRENCY a delivery may stay unacknowledged for %v, and RabbitMQ hands it out again after its consumer timeout, "+
		"%v unless it has been set: other daemons begin with it beside this one; %s", q.EnvPrefix, q.Held, usualConsumerTimeout, cure)
}
