package broker

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// toWait is a message that waits in that queue.
func toWait(queue string) Outgoing {
	return Outgoing{Key: queue, Purpose: ForWait, Message: amqp.Publishing{Headers: amqp.Table{HeaderCopy: rand.Text()}}}
}

// TestWhatAQueueGetsOverTheSharedChannel counts the messages of each kind of channel: what
// is new to a queue can hold up the channel that all share.
func TestWhatAQueueGetsOverTheSharedChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const shares = 1 // it is opened first
		var shared, alone int
		answers := true
		c, node := connTo(t, served{takes: func(channel byte, _ string) bool {
			if channel == shares {
				shared++
			} else {
				alone++
			}
			return answers
		}})
		ctx, end := context.WithCancel(t.Context())
		var offered sync.WaitGroup
		offer := func(n int) {
			for range n {
				offered.Go(func() { _ = c.Publish(ctx, toWait("wait")) })
			}
			synctest.Wait()
		}
		were := func(wantShared, wantAlone int, after string) {
			t.Helper()
			if shared != wantShared || alone != wantAlone {
				t.Errorf("%s: %d messages went over the shared channel and %d over others, want %d and %d", after, shared, alone, wantShared, wantAlone)
			}
		}
		offer(1)
		were(0, 1, "the first")
		time.Sleep(time.Hour)
		offer(1)
		were(0, 2, "an hour after that")
		offer(1)
		were(1, 2, "at once after that")
		time.Sleep(time.Hour)
		offer(1)
		were(2, 2, "an hour after the shared channel is known to the queue")
		answers = false
		offer(mostToOne + 5)
		were(2+mostToOne, 2, "while the queue does not answer")
		refusal := methodOf(shares, 60, 120, 0, 0, 0, 0, 0, 0, 0, 2+mostToOne, 1)
		if _, err := node.Write(refusal); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		were(2+mostToOne, 3, "after it has refused them")
		end()
		offered.Wait()
		c.Close()
	})
}

// neighbours are two queues that are published to over one connection. One does not answer.
type neighbours struct {
	t      *testing.T
	v      *rabbittest.Vhost
	c      *Conn
	answer chan error // of the one that does not
}

func newNeighbours(t *testing.T) *neighbours {
	t.Helper()
	v := rabbittest.NewVhost(t)
	for _, queue := range []string{"stuck", "other"} {
		v.Declare(t, queue, nil)
	}
	c, err := Dialer{}.Dial(t.Context(), v.URL, Options{Purpose: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &neighbours{t, v, c, make(chan error, 1)}
}

// lane is that of the shared channel for a queue.
func (w *neighbours) lane(queue string) *lane {
	w.t.Helper()
	ch, err := w.c.sharedChannel()
	if err != nil {
		w.t.Fatal(err)
	}
	return ch.lane(queue)
}

func (w *neighbours) publish(queue string) {
	w.t.Helper()
	if err := w.c.Publish(context.Background(), toWait(queue)); err != nil {
		w.t.Error(err)
	}
}

// known publishes to a queue, two messages at once, until the shared channel is known to it.
func (w *neighbours) known(queue string) {
	w.t.Helper()
	rabbittest.Eventually(w.t, rabbittest.Soon, func() bool {
		var both sync.WaitGroup
		both.Go(func() { w.publish(queue) })
		both.Go(func() { w.publish(queue) })
		both.Wait()
		return w.lane(queue).known
	}, "the shared channel is known to queue "+queue)
}

// underWay waits until the queue that does not answer is offered a message.
func (w *neighbours) underWay() {
	w.t.Helper()
	l := w.lane("stuck")
	rabbittest.Eventually(w.t, rabbittest.Soon, func() bool { return len(l.slots)+len(l.trying) > 0 }, "the message is on its way")
}

// others publishes to the other queue, and looks that all of that is confirmed while the
// one does not answer. The broker ends that by itself after 65 s, with a refusal.
func (w *neighbours) others(resume func()) {
	w.t.Helper()
	for range 30 {
		w.publish("other")
	}
	select {
	case err := <-w.answer:
		w.t.Errorf("the other queue's waits were held up until the one that does not answer was done (%v)", err)
	default:
		resume()
		if err := <-w.answer; err != nil {
			w.t.Errorf("when its queue answers again: %v", err)
		}
	}
}

// TestAWaitWhoseLeaderGoesAfterItsFirstMessage has the shared channel be new to a queue that
// has taken a message before, over another channel.
func TestAWaitWhoseLeaderGoesAfterItsFirstMessage(t *testing.T) {
	t.Parallel()
	w := newNeighbours(t)
	w.known("other")
	w.publish("stuck")
	resume := w.v.SuspendLeader(t, "stuck")
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return !w.lane("stuck").open() }, "that says nothing any more")
	go func() { w.answer <- w.c.Publish(context.Background(), toWait("stuck")) }()
	w.underWay()
	w.others(resume)
}

// TestAWaitThatIsDeclaredAgainWithoutALeader has the shared channel be known to a queue that
// is deleted. The next one of that name does not answer.
func TestAWaitThatIsDeclaredAgainWithoutALeader(t *testing.T) {
	t.Parallel()
	w := newNeighbours(t)
	w.known("other")
	w.known("stuck")
	w.v.DeleteQueue(t, "stuck")
	o := toWait("stuck")
	missed, declared := make(chan struct{}), make(chan struct{})
	o.Declare = func(*Conn) error {
		close(missed)
		<-declared
		return nil
	}
	go func() { w.answer <- w.c.Publish(context.Background(), o) }()
	<-missed
	w.v.Declare(t, "stuck", nil)
	resume := w.v.SuspendLeader(t, "stuck")
	close(declared)
	w.underWay()
	w.others(resume)
}
