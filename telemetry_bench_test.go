package main

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/jaegertest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// BenchmarkTelemetry drains 100,000 messages of 1 KiB with the daemon, in turn with no
// telemetry, with metrics and one trace in a hundred, and with every message traced to a
// collector on the same machine. It reports the median rate of the first, and the medians
// of the others' ratios to it: run it with -benchtime 5x.
func BenchmarkTelemetry(b *testing.B) {
	v := rabbittest.NewVhost(b)
	collector := "OTEL_EXPORTER_OTLP_ENDPOINT=" + jaegertest.StartCollector(b).OTLPGRPC
	off := []string{"OTEL_SDK_DISABLED=true"}
	some := []string{collector, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01"}
	all := []string{collector, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}

	drainWith(b, v, off) // warms the node up
	var rates, withSome, withAll []float64
	before := drainWith(b, v, off)
	// The machine's speed drifts: each is held against what came before and after it.
	ratio := func(env []string) float64 {
		rate := drainWith(b, v, env)
		after := drainWith(b, v, off)
		base := (before + after) / 2
		before = after
		rates = append(rates, base)
		return rate / base
	}
	for b.Loop() {
		withSome = append(withSome, ratio(some))
		withAll = append(withAll, ratio(all))
	}
	b.ReportMetric(median(rates), "off-msgs/s")
	b.ReportMetric(median(withSome), "1%-ratio")
	b.ReportMetric(median(withAll), "100%-ratio")
	b.ReportMetric(0, "ns/op") // of no interest
}

func median(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }

// drainWith returns how many messages a second a daemon with these variables works.
func drainWith(b *testing.B, v *rabbittest.Vhost, env []string) float64 {
	b.Helper()
	const n = 100_000
	path, err := built()
	if err != nil {
		b.Fatal(err)
	}
	v.Declare(b, "bench", amqp091.Table{
		"x-overflow": "reject-publish", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "bench.dead",
		"x-dead-letter-strategy": "at-least-once", "x-delivery-limit": int64(20),
	})
	body := bytes.Repeat([]byte("x"), 1024)
	v.PublishN(b, "bench", n, func(int) amqp091.Publishing {
		return amqp091.Publishing{Body: body, MessageId: "m", DeliveryMode: amqp091.Persistent}
	})
	cmd := exec.Command(path)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "WARREN_AMQP_URL=" + v.URL, "WARREN_QUEUES=bench", "WARREN_QUEUE_BENCH_PROCESSOR=log",
		"WARREN_QUEUE_BENCH_PREFETCH=100", "WARREN_LOG_LEVEL=warn", "WARREN_ADMIN_ADDR=127.0.0.1:0"}, env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	// Asked over AMQP, which costs the node next to nothing.
	ch := v.Channel(b)
	begun, begunAt, left := time.Time{}, 0, n
	for left > 0 {
		<-time.After(5 * time.Millisecond)
		q, err := ch.QueueDeclarePassive("bench", true, false, false, false, nil)
		if err != nil {
			b.Fatal(err)
		}
		left = q.Messages
		if begun.IsZero() && left < n*9/10 { // it has started, and warmed up
			begun, begunAt = time.Now(), left
		}
	}
	rate := float64(begunAt) / time.Since(begun).Seconds()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%v\n%s", err, errs.String())
	}
	return rate
}
