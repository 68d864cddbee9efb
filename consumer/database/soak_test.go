package database

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// Two daemons work a queue with delays and failures, and lose their connections again and
// again. Each may begin with what the other had, and what that did takes effect once. With
// WARREN_TEST_LONG set it takes longer.
func TestTwoDaemonsInASoak(t *testing.T) {
	t.Parallel()
	messages, cuts := 600, 6
	if os.Getenv("WARREN_TEST_LONG") != "" {
		messages, cuts = 12_000, 60
	}
	each(t, func(t *testing.T, url string) {
		t.Parallel()
		v := rabbittest.NewVhost(t)
		d := migrated(t, url)
		var runs atomic.Int64
		process := func(ctx context.Context, m consumer.Delivery, scope *consumer.Scope) error {
			runs.Add(1)
			if err := insert(ctx, m, scope); err != nil {
				return err
			}
			if m.Type == "fails once" && m.Attempt == 1 {
				return errors.New("fails once")
			}
			return nil
		}
		var proxies [2]*rabbittest.Proxy
		var logs [2]logBuffer
		for i := range proxies {
			proxies[i] = rabbittest.NewProxy(t, v.Node.Addr())
			consume(t, v.URLAt(proxies[i].Addr), newDatabase(t, url, io.Discard), &logs[i], process)
		}
		counted := func(text string) int {
			return strings.Count(logs[0].String(), text) + strings.Count(logs[1].String(), text)
		}
		start := time.Now()
		batch := messages / cuts
		for cut := range cuts {
			v.PublishN(t, "work", batch, func(i int) amqp.Publishing {
				m := message(fmt.Sprint(cut*batch+i), "")
				switch i % 4 {
				case 0:
					m.Type = "fails once"
				case 1:
					m.Headers = amqp.Table{"x-delay": int64(rand.IntN(4000))}
				}
				return m
			})
			before := counted("msg=connected")
			proxies[cut%2].Cut()
			rabbittest.Eventually(t, time.Minute, func() bool { return counted("msg=connected") > before }, "connected again")
		}
		sent := batch * cuts
		rabbittest.Eventually(t, 5*time.Minute, func() bool { return d.number(t, "SELECT count(DISTINCT id) FROM rows") == sent }, "all are done")
		rabbittest.Eventually(t, time.Minute, func() bool {
			return v.Ready(t, "work")+v.Unacked(t, "work")+v.Ready(t, "warren.wait.work.1s")+v.Ready(t, "warren.wait.work.2s") == 0
		}, "nothing is left")
		repeats := runs.Load() - int64(sent+sent/4)
		t.Logf("%d messages and %d cuts within %v: %d attempts were begun again, %d found their work done before, %d rows",
			sent, cuts, time.Since(start).Round(time.Second), repeats, counted("repeat of work that the inbox knows"), d.number(t, "SELECT count(*) FROM rows"))
		if n := d.number(t, "SELECT count(*) FROM rows"); n != sent {
			t.Errorf("%d rows were inserted for %d messages", n, sent)
		}
		if n := v.Ready(t, "work.dead"); n != 0 {
			t.Errorf("%d messages are dead", n)
		}
	})
}
