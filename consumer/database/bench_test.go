package database

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// BenchmarkInsert works messages of 1 KiB with a message-id, whose processor inserts
// a row, 16 at once: the inbox is asked, and the message recorded with the row, by a
// PostgreSQL that syncs each commit to disk. Then the same with a message published
// for each, which the relay of the same process takes to the broker meanwhile.
func BenchmarkInsert(b *testing.B) {
	const messages = 10_000
	body := strings.Repeat("x", 1024)
	for name, publish := range map[string]bool{"insert": false, "and-publish": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				v := rabbittest.NewVhost(b)
				d := migrated(b, pgtest.URL(b))
				v.Declare(b, "out", nil)
				v.Declare(b, "work", workQueue)
				v.PublishN(b, "work", messages, func(i int) amqp.Publishing { return message(fmt.Sprint(i), body) })
				var done atomic.Int64
				finished := make(chan struct{})
				b.StartTimer()
				stop := consume(b, v.URL, d, new(logBuffer), func(ctx context.Context, m consumer.Delivery, scope *consumer.Scope) error {
					err := insert(ctx, m, scope)
					if err == nil && publish {
						err = scope.Publish(ctx, consumer.Message{RoutingKey: "out", Body: m.Body})
					}
					if err == nil && done.Add(1) == messages {
						close(finished)
					}
					return err
				})
				<-finished
				stop()
				b.StopTimer()
				if n := d.number(b, "SELECT count(*) FROM rows"); n != messages {
					b.Fatalf("got %d rows, want %d", n, messages)
				}
				b.StartTimer()
			}
			b.ReportMetric(messages*float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
			b.ReportMetric(0, "ns/op") // of no interest
		})
	}
}

// BenchmarkRelay drains an outbox of messages of 1 KiB for one queue.
func BenchmarkRelay(b *testing.B) {
	const messages = 20_000
	for _, database := range []string{"postgres", "sqlite"} {
		b.Run(database, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				v := rabbittest.NewVhost(b)
				url := sqliteURL(b)
				series := "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < $1) SELECT"
				if database == "postgres" {
					url, series = pgtest.URL(b), "WITH s AS (SELECT generate_series(1, $1) AS n) SELECT"
				}
				d := migrated(b, url)
				v.Declare(b, "out", nil)
				d.exec(b, "INSERT INTO "+d.outbox()+" (routing_key, body) "+series+" 'out', '"+strings.Repeat("x", 1024)+"' FROM s", messages)
				b.StartTimer()
				stop := consume(b, v.URL, d, new(logBuffer), idle)
				// To count what is left would read all of it, and take more than the relay does.
				some := "SELECT count(*) FROM (SELECT 1 FROM " + d.outbox() + " LIMIT 1) AS first"
				rabbittest.Eventually(b, time.Minute, func() bool { return d.number(b, some) == 0 }, "the outbox is empty")
				b.StopTimer()
				stop()
				if n := v.Ready(b, "out"); n != messages {
					b.Fatalf("the queue has %d messages, want %d", n, messages)
				}
				b.StartTimer()
			}
			b.ReportMetric(messages*float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}
