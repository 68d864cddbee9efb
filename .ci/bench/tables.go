package main

import (
	"fmt"
	"log"
	"time"
)

// A table is rows that are measured in turn. All rates are held against that of the first
// row of the same round.
type table struct {
	title string
	quick bool // one of the main tables
	rows  []row
}

// A row is a consumer, and what it is given to do. Zero of a number means what is usual.
type row struct {
	name     string
	worker   string   // a peer, warren or other, which is another build of that
	env      []string // of warren
	messages int
	body     int // bytes
	queues   int
	pace     int  // messages a second that are published while it runs; 0: all before
	command  bool // warren starts commands: what it costs is seen from outside
}

func (r row) of(b *bench) row {
	if r.messages == 0 {
		r.messages = b.messages
	}
	if r.body == 0 {
		r.body = 1024
	}
	if r.queues == 0 {
		r.queues = 1
	}
	return r
}

const (
	hundred = "WARREN_QUEUE_*_PREFETCH=100"
	off     = "OTEL_SDK_DISABLED=true"
	sampled = "OTEL_TRACES_SAMPLER_ARG=0.01"
	traced  = "OTEL_TRACES_SAMPLER_ARG=1"
)

// warren is a row of Warren with prefetch 100, metrics on, and one message in a hundred traced.
func warren(name string, env ...string) row {
	return row{name: name, worker: "warren", env: append([]string{hundred, sampled}, env...)}
}

func (r row) with(change func(*row)) row {
	change(&r)
	return r
}

func (b *bench) tables() []table {
	loop := row{name: "hand-written loop, ack each", worker: "loop"}
	storm := func(concurrency int) row {
		return warren(fmt.Sprintf("Warren, every message fails and waits, CONCURRENCY=%d", concurrency),
			fmt.Sprintf("WARREN_QUEUE_*_CONCURRENCY=%d", concurrency), "BENCH_FAILS=1", "WARREN_QUEUE_*_RETRY_BASE=1h", "WARREN_QUEUE_*_BRAKE=false")
	}
	main := table{title: "Draining, prefetch 100, 1 KiB, JSON decoded, no work", quick: true, rows: []row{
		loop,
		{name: "automatic ack, unsafe: the ceiling", worker: "automatic"},
		{name: "hand-written loop, multiple-ack every 50", worker: "multiple"},
		{name: "go-rabbitmq", worker: "go-rabbitmq"},
		{name: "watermill-amqp", worker: "watermill"},
		warren("Warren, 1 % traced"),
		warren("Warren, every message traced", traced),
		warren("Warren, 1 % traced, PREFETCH not set").with(func(r *row) { r.env = r.env[1:] }),
	}}
	if b.other != "" {
		main.rows = append(main.rows, warren("the other Warren, 1 % traced").with(func(r *row) { r.worker = "other" }))
	}
	rest := table{title: "Warren otherwise", rows: []row{loop, warren("Warren, telemetry off", off), storm(8), storm(50)}}

	queues := table{title: "Queues"}
	for _, n := range []int{1, 10, 100} {
		queues.rows = append(queues.rows, warren(fmt.Sprintf("Warren, %d queues", n)).with(func(r *row) { r.queues = n }))
	}
	queues.rows = append(queues.rows, warren("Warren, 100 queues, every message traced", traced).with(func(r *row) { r.queues = 100 }))
	backlogs := table{title: "Backlog"}
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		backlogs.rows = append(backlogs.rows, warren(fmt.Sprintf("Warren, backlog of %d", n)).with(func(r *row) { r.messages = n }))
	}
	tables := []table{main, rest, queues, backlogs}
	for _, body := range []struct {
		name            string
		bytes, messages int
	}{{"100 B", 100, 60_000}, {"64 KiB", 64 << 10, 10_000}, {"1 MiB", 1 << 20, 600}} {
		of := func(r *row) { r.body, r.messages = body.bytes, body.messages }
		tables = append(tables, table{title: "Bodies of " + body.name, rows: []row{loop.with(of), warren("Warren, 1 % traced").with(of)}})
	}
	return append(tables,
		table{title: "Latency at 500 messages a second", rows: []row{
			loop.with(func(r *row) { r.pace, r.messages = 500, 5000 }),
			warren("Warren, 1 % traced").with(func(r *row) { r.pace, r.messages = 500, 5000 }),
		}},
		commands(),
	)
}

// commands start programs.
func commands() table {
	command := func(name, command string, messages int, env ...string) row {
		return row{name: name, worker: "warren", command: true, messages: messages, env: append([]string{
			hundred, sampled, "WARREN_QUEUE_*_PROCESSOR=command", "WARREN_QUEUE_*_COMMAND=" + command,
		}, env...)}
	}
	const stays = `python3 -S -c "import json, sys; any(print(json.dumps({'id': json.loads(l)['id'], 'verdict': 'ok'}), flush=True) for l in sys.stdin)"`
	return table{title: "Commands", rows: []row{
		command("Warren, Python that stays (MODE=pool)", stays, 30_000, "WARREN_QUEUE_*_MODE=pool"),
		command("Warren, Python started for each message", "python3 -S -c pass", 1000),
		command("Warren, /bin/true started for each message", "/bin/true", 5000),
	}}
}

// measure runs the rows of the table and prints it.
func (t table) measure(b *bench) error {
	results := make([][]result, len(t.rows))
	for round := range b.rounds {
		log.Printf("%s: round %d of %d", t.title, round+1, b.rounds)
		for i, r := range t.rows {
			result, err := b.drainFor(r.of(b))
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			results[i] = append(results[i], result)
		}
	}
	fmt.Printf("\n%s; medians of %d:\n\n", t.title, b.rounds)
	latencies := t.rows[0].pace > 0
	if latencies {
		fmt.Println("| consumer | p50 ms | p99 ms | p99.9 ms | CPU us a message |\n| --- | --- | --- | --- | --- |")
	} else {
		fmt.Println("| consumer | messages/s | to the first | CPU us a message | to the first | of the broker | peak memory MiB |\n| --- | --- | --- | --- | --- | --- | --- |")
	}
	for i, r := range t.rows {
		of := func(value func(result) float64) float64 {
			var all []float64
			for _, result := range results[i] {
				all = append(all, value(result))
			}
			return median(all)
		}
		to := func(value func(result) float64) float64 {
			var all []float64
			for round, result := range results[i] {
				all = append(all, value(result)/value(results[0][round]))
			}
			return median(all)
		}
		if latencies {
			ms := func(name string) float64 {
				return of(func(r result) float64 { return float64(r.Latency[name]) / float64(time.Millisecond) })
			}
			fmt.Printf("| %s | %.2f | %.2f | %.2f | %.1f |\n", r.name, ms("p50"), ms("p99"), ms("p99.9"), of(result.cpu))
			continue
		}
		fmt.Printf("| %s | %.0f | %.2f | %.1f | %.2f | %.1f | %.0f |\n", r.name,
			of(result.rate), to(result.rate), of(result.cpu), to(result.cpu), of(func(r result) float64 { return r.broker }), of(func(r result) float64 { return float64(r.Memory) / (1 << 20) }))
	}
	return nil
}
