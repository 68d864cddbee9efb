package consumer

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

const (
	drainMessages = 60_000
	drainPrefetch = 100
)

type drainMessage struct {
	ID   int    `json:"id"`
	Text string `json:"text"`
}

// BenchmarkDrain drains a quorum queue of 60,000 messages of 1 KiB, each decoded
// from JSON, in turn with a loop written by hand that acknowledges each delivery,
// and with Warren. It reports the median rate of both and the median of the ratios
// of the rounds: run it with -benchtime 5x.
func BenchmarkDrain(b *testing.B) {
	v := rabbittest.NewVhost(b)
	if err := dial(b, v.URL).Ensure(broker.Queue{Name: "drain", Type: Quorum}.Declarations(), false, ""); err != nil {
		b.Fatal(err)
	}
	body, err := json.Marshal(drainMessage{1, strings.Repeat("x", 1000)})
	if err != nil {
		b.Fatal(err)
	}
	fill := func() {
		v.PublishN(b, "drain", drainMessages, func(int) amqp.Publishing {
			return amqp.Publishing{Body: body, DeliveryMode: amqp.Persistent, ContentType: "application/json"}
		})
	}
	var hand, warren, ratios []float64
	for b.Loop() {
		fill()
		hand = append(hand, drainByHand(b, v.URL))
		fill()
		warren = append(warren, drainWithWarren(b, v.URL))
		ratios = append(ratios, warren[len(warren)-1]/hand[len(hand)-1])
	}
	b.ReportMetric(median(hand), "hand-msgs/s")
	b.ReportMetric(median(warren), "warren-msgs/s")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(0, "ns/op") // of no interest
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func drainByHand(b *testing.B, url string) float64 {
	conn, err := amqp.Dial(url)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		b.Fatal(err)
	}
	if err := ch.Qos(drainPrefetch, 0, false); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	deliveries, err := ch.Consume("drain", "", false, false, false, false, nil)
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for d := range deliveries {
		var m drainMessage
		if err := json.Unmarshal(d.Body, &m); err != nil {
			b.Fatal(err)
		}
		if err := d.Ack(false); err != nil {
			b.Fatal(err)
		}
		if n++; n == drainMessages {
			break
		}
	}
	return drainMessages / time.Since(start).Seconds()
}

func drainWithWarren(b *testing.B, url string) float64 {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var n atomic.Int64
	var start, end time.Time
	p := JSON(func(context.Context, drainMessage, *Scope) error {
		switch n.Add(1) {
		case 1:
			start = time.Now()
		case drainMessages:
			end = time.Now()
			cancel()
		}
		return nil
	})
	c, err := New(Config{Nodes: []string{url}, Queues: []Queue{{Name: "drain", Processor: p, Prefetch: drainPrefetch}}}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Run(ctx); err != nil {
		b.Fatal(err)
	}
	return drainMessages / end.Sub(start).Seconds()
}
