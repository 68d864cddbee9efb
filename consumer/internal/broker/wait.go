package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// OwnPrefix begins the name of every queue that is Warren's own, and waitPrefix that of
// the wait queues.
const (
	OwnPrefix  = "warren."
	waitPrefix = OwnPrefix + "wait."
)

// ShortestWait is the shortest wait that a message spends in the broker.
const ShortestWait = time.Second

// waits are the waits that a work queue can have a queue for. Each is declared when it
// is first needed: that of a wait which nobody has asked for costs nothing. Up to 16 s,
// where most retries are, every power of two is there, so that a retry is one hop; a
// longer wait takes three hops of the next shorter one at most.
var waits = func() (out []time.Duration) {
	for _, seconds := range [...]int64{1, 2, 4, 8, 16, 64, 256, 1024, 4096, 16384, 65536, 262144} {
		out = append(out, time.Duration(seconds)*time.Second)
	}
	return out
}()

// MaxQueueName is the length of the name of a work queue, in bytes: AMQP allows the
// names of its wait queues 255.
const MaxQueueName = maxShort - len(waitPrefix+".262144s")

// Waits are the waits that the queue can have a queue for, shortest first. Where nothing
// may be declared they are only those that its retries need.
func (q Queue) Waits() []time.Duration {
	if !q.Passive {
		return waits
	}
	n := 1
	for n < len(waits) && waits[n] <= q.RetryMax {
		n++
	}
	return waits[:n]
}

// WaitStep is the longest wait of the queue that is no longer than d; for a shorter d,
// the shortest there is.
func (q Queue) WaitStep(d time.Duration) time.Duration {
	all := q.Waits()
	i, found := slices.BinarySearch(all, d)
	if !found {
		i--
	}
	return all[max(i, 0)]
}

// WaitName names the queue in which messages of the work queue wait for d.
func (q Queue) WaitName(d time.Duration) string {
	return fmt.Sprintf("%s%s.%ds", waitPrefix, q.Name, int64(d/time.Second))
}

// PutToWait readies msg to wait for d or the next shorter wait that there is, and returns the
// name of the queue to publish it to. It says itself when it expires there: in RabbitMQ 3.10
// a queue whose declaration was interrupted can be without its TTL, and what came to it
// then would never fall due, nor would what came behind that.
func (q Queue) PutToWait(msg *amqp.Publishing, d time.Duration) string {
	if msg.Priority != 0 {
		msg.Headers[OriginalPrefix+"priority"], msg.Priority = msg.Priority, 0
	}
	d = q.WaitStep(d)
	msg.Expiration = strconv.FormatInt(d.Milliseconds(), 10)
	return q.WaitName(d)
}

// DeclareWait is the Declaration of a wait queue. What expires in it goes to its own
// work queue, whatever its headers and routing key say: so what has become of one work
// queue is nothing to the waits of another, and no message can make a circle of it.
func (q Queue) DeclareWait(d time.Duration) Declaration {
	decl := q.declare(q.WaitName(d), q.waitArguments(d))
	decl.What = "wait " + decl.What
	return decl
}

func (q Queue) waitArguments(d time.Duration) amqp.Table {
	return amqp.Table{
		amqp.QueueTypeArg:           amqp.QueueTypeQuorum,
		amqp.QueueMessageTTLArg:     d.Milliseconds(),
		"x-dead-letter-exchange":    "", // the default exchange
		"x-dead-letter-routing-key": q.Name,
		"x-dead-letter-strategy":    "at-least-once",
		amqp.QueueOverflowArg:       amqp.QueueOverflowRejectPublish,
		"x-delivery-limit":          int64(lookedAtLimit),
	}
}

// WorkQueueOf is the work queue that a wait queue is named after; false if that is no
// name of a wait queue.
func WorkQueueOf(waitQueue string) (string, bool) {
	rest, ours := strings.CutPrefix(waitQueue, waitPrefix)
	dot := strings.LastIndexByte(rest, '.')
	if !ours || dot < 1 {
		return "", false
	}
	return rest[:dot], true
}

// SharedWaits are the names of the wait queues that all work queues shared until 1.0:
// what an earlier version has put there comes home by itself.
func SharedWaits() (names []string) {
	for seconds := int64(1); seconds <= 1<<24; seconds *= 2 {
		names = append(names, fmt.Sprintf("%s%ds", waitPrefix, seconds))
	}
	return names
}
