package database

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

func idle(context.Context, consumer.Delivery, *consumer.Scope) error { return nil }

func (d *Database) outbox() string {
	if d.dsn.dialect == sqlite {
		return "warren_outbox"
	}
	return "warren.outbox"
}

func (d *Database) pending(t testing.TB) int {
	t.Helper()
	return d.number(t, "SELECT count(*) FROM "+d.outbox())
}

// All that a message can carry arrives as it was set, and only after the commit.
func TestPublishInATransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		v := rabbittest.NewVhost(t)
		d := migrated(t, url)
		consume(t, v.URL, d, new(logBuffer), idle)
		v.Declare(t, "out", nil)
		full := consumer.Message{
			RoutingKey: "out", Body: []byte("\x00\xff"), MessageID: "m-1", CorrelationID: "c", ReplyTo: "r", Type: "t", AppID: "a",
			ContentType: "text/plain", ContentEncoding: "gzip", Priority: 3, Expiration: time.Hour,
			Headers: map[string]any{"int": int64(1) << 60, "float": 1.5, "text": "ä", "yes": true, "none": nil,
				"list": []any{int64(1), "b"}, "table": map[string]any{"x": int64(-1)}},
		}
		fault := errors.New("a fault")
		for _, verdict := range []error{fault, nil} {
			_, err := consumertest.RunDatabase(t.Context(), d, consumer.ProcessorFunc(func(ctx context.Context, _ consumer.Delivery, scope *consumer.Scope) error {
				return errors.Join(
					scope.Publish(ctx, full),
					scope.Publish(ctx, consumer.Message{RoutingKey: "out", Body: []byte(`{"path": "a\\b\n"}`)}),
					verdict)
			}), consumer.Delivery{})
			if !errors.Is(err, verdict) {
				t.Fatal(err)
			}
			if verdict != nil && d.pending(t) != 0 {
				t.Error("the outbox has messages of an attempt that failed")
			}
		}
		rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "out") == 2 }, "both messages are published")
		rabbittest.Eventually(t, 10*time.Second, func() bool { return d.pending(t) == 0 }, "their rows are deleted")
		got := v.Drain(t, "out")
		m := got[0]
		if string(m.Body) != "\x00\xff" || m.MessageId != "m-1" || m.CorrelationId != "c" || m.ReplyTo != "r" || m.Type != "t" || m.AppId != "a" ||
			m.ContentType != "text/plain" || m.ContentEncoding != "gzip" || m.Priority != 3 || m.Expiration != "3600000" || m.DeliveryMode != amqp.Persistent {
			t.Errorf("got %+v", m)
		}
		want := amqp.Table{"int": int64(1) << 60, "float": 1.5, "text": "ä", "yes": true, "none": nil,
			"list": []any{int64(1), "b"}, "table": amqp.Table{"x": int64(-1)}}
		if fmt.Sprint(m.Headers) != fmt.Sprint(want) {
			t.Errorf("got the headers %v, want %v", m.Headers, want)
		}
		if m := got[1]; string(m.Body) != `{"path": "a\\b\n"}` || m.MessageId == "" || m.ContentType != "application/json" {
			t.Errorf("got %+v, want the defaults", m)
		}
	})
}

func TestMessagesThatCannotBePublishedAreRefusedAtOnce(t *testing.T) {
	d := migrated(t, sqliteURL(t))
	for want, m := range map[string]consumer.Message{
		"neither an exchange nor":   {},
		"a []uint8 in a header":     {RoutingKey: "q", Headers: map[string]any{"x": []byte("b")}},
		"a time.Time in a header":   {RoutingKey: "q", Headers: map[string]any{"x": []any{time.Time{}}}},
		"the type has 256 bytes":    {RoutingKey: "q", Type: strings.Repeat("x", 256)},
		"the name of the header xx": {RoutingKey: "q", Headers: map[string]any{strings.Repeat("x", 256): 1}},
		"at most 65536 are sent":    {RoutingKey: "q", Headers: map[string]any{"x": strings.Repeat("x", 65536)}},
		"headers: ":                 {RoutingKey: "q", Headers: map[string]any{"x": struct{}{}}},
	} {
		_, err := consumertest.RunDatabase(t.Context(), d, consumer.ProcessorFunc(func(ctx context.Context, _ consumer.Delivery, scope *consumer.Scope) error {
			return scope.Publish(ctx, m)
		}), consumer.Delivery{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if n := d.pending(t); n != 0 {
		t.Errorf("got %d rows, want none", n)
	}
}

// A program of any language may insert; what it leaves out has a default. What
// could not be published is refused by the table.
func TestOtherProgramsInsert(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		v := rabbittest.NewVhost(t)
		d := migrated(t, url)
		consume(t, v.URL, d, new(logBuffer), idle)
		v.Declare(t, "out", nil)
		d.exec(t, "INSERT INTO "+d.outbox()+` (routing_key, body) VALUES ('out', '{"a": "b\\n"}')`)
		d.exec(t, "INSERT INTO "+d.outbox()+` (routing_key, headers) VALUES ('out', '{"x-delay": 5}')`)
		rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "out") == 2 }, "both are published")
		got := v.Drain(t, "out")
		if m := got[0]; string(m.Body) != `{"a": "b\\n"}` || len(m.MessageId) < 32 || m.ContentType != "application/json" || m.Expiration != "" {
			t.Errorf("got %+v", m)
		}
		if m := got[1]; len(m.Body) != 0 || m.Headers["x-delay"] != int64(5) || m.MessageId == got[0].MessageId {
			t.Errorf("got %+v", m)
		}
		for _, values := range []string{
			"(routing_key, headers) VALUES ('out', '[]')",
			"(routing_key, priority) VALUES ('out', 256)",
			"(routing_key, expiration_ms) VALUES ('out', -1)",
			"(routing_key, message_id) VALUES ('out', '')",
			"(routing_key, body, body_bytes) VALUES ('out', 'a', 'b')",
			"(routing_key) VALUES ('" + strings.Repeat("x", 256) + "')",
			"(body) VALUES ('a')",
		} {
			if _, err := d.write.Exec("INSERT INTO " + d.outbox() + values); err == nil {
				t.Errorf("%s is accepted", values)
			}
		}
	})
}

// What the broker refuses is kept, holds back its own target only, is logged once,
// and goes first when it can.
func TestRefusedMessagesHoldBackTheirTargetOnly(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		v := rabbittest.NewVhost(t)
		d := migrated(t, url)
		v.Declare(t, "out", nil)
		v.Declare(t, "full", amqp.Table{"x-queue-type": "classic", "x-max-length": int32(1), "x-overflow": "reject-publish"})
		v.Publish(t, "full", message("first", ""))
		for i := range 20 {
			for _, target := range []string{"'', 'out'", "'', 'missing'", "'nowhere', 'k'", "'', 'full'"} {
				d.exec(t, fmt.Sprintf("INSERT INTO %s (exchange, routing_key, body) VALUES (%s, '%d')", d.outbox(), target, i))
			}
		}
		var log logBuffer
		consume(t, v.URL, newDatabase(t, url, &log), &log, idle)
		rabbittest.Eventually(t, 10*time.Second, func() bool { return d.pending(t) == 60 }, "the good ones are published")
		inOrder(t, v.Drain(t, "out"), func(i int) string { return fmt.Sprint(i) }, 20)
		held := "SELECT count(*) FROM " + d.outbox() + " WHERE error IS NOT NULL AND attempts > 1"
		rabbittest.Eventually(t, 20*time.Second, func() bool { return d.number(t, held) == 3 }, "one message of each other target is marked, and tried again")
		if n := d.pending(t); n != 60 {
			t.Errorf("got %d rows kept, want 60", n)
		}
		if n := strings.Count(log.String(), "message of the outbox not published"); n != 3 {
			t.Errorf("got %d lines of the log, want 3", n)
		}
		for _, want := range []string{"there is no queue missing", "there is no exchange nowhere", "the broker refused it"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log does not say %q", want)
			}
		}
		v.Declare(t, "missing", nil)
		ch := v.Channel(t)
		if err := ch.ExchangeDeclare("nowhere", "direct", true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		v.Declare(t, "bound", nil)
		if err := ch.QueueBind("bound", "k", "nowhere", false, nil); err != nil {
			t.Fatal(err)
		}
		for _, queue := range []string{"missing", "bound"} {
			rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, queue) >= 20 }, "queue "+queue+" has all")
			inOrder(t, v.Drain(t, queue), func(i int) string { return fmt.Sprint(i) }, 20)
		}
		rabbittest.Eventually(t, 10*time.Second, func() bool { return d.pending(t) == 20 }, "only those for the queue that is full are left")
	})
}

// Only one process publishes; when it ends, another goes on.
func TestOneRelay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		var stops []func()
		published := make(chan int, 100)
		for i := range 3 {
			db := newDatabase(t, url, new(logBuffer))
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				db.Run(ctx, progress, func(batch []consumer.Message) []error {
					for range batch {
						published <- i
					}
					return make([]error, len(batch))
				})
			}()
			stops = append(stops, func() {
				cancel()
				<-ended
			})
		}
		seen := make(map[int]bool)
		for range stops {
			var by int
			for n := range 10 {
				d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key) VALUES ('q')")
				select {
				case i := <-published:
					if n > 0 && i != by {
						t.Errorf("relays %d and %d publish at the same time", by, i)
					}
					by = i
				case <-time.After(time.Minute):
					t.Fatal("nothing is published within a minute")
				}
			}
			seen[by] = true
			stops[by]()
		}
		if len(seen) != len(stops) {
			t.Errorf("published by %v, want each in its turn", maps.Keys(seen))
		}
	})
}

// A database that can be read but not written, since its disk is full or another program
// keeps the lock, has nothing published twice.
func TestWhatCannotBeDeletedIsPublishedOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		unblock := "DROP TRIGGER full_disk"
		if d.dsn.dialect == sqlite {
			d.exec(t, "CREATE TRIGGER full_disk BEFORE DELETE ON warren_outbox BEGIN SELECT RAISE(ABORT, 'disk full'); END")
		} else {
			d.exec(t, "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$")
			d.exec(t, "CREATE TRIGGER full_disk BEFORE DELETE ON warren.outbox FOR EACH ROW EXECUTE FUNCTION full_disk()")
			unblock += " ON warren.outbox"
		}
		const n = 5
		for i := range n {
			d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, body) VALUES ($1, '{}')", fmt.Sprint("q", i%2))
		}
		var mu sync.Mutex
		published := make(map[string]int)
		var turns atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			d.Run(ctx, func() { turns.Add(1) }, func(batch []consumer.Message) []error {
				mu.Lock()
				defer mu.Unlock()
				for _, m := range batch {
					published[m.MessageID]++
				}
				return make([]error, len(batch))
			})
		}()
		defer func() {
			cancel()
			<-ended
		}()
		rabbittest.Eventually(t, time.Minute, func() bool { return turns.Load() > 15 }, "the relay has tried several times")
		d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, body) VALUES ('q0', '{}')") // goes out all the same
		d.exec(t, unblock)
		rabbittest.Eventually(t, time.Minute, func() bool { return d.pending(t) == 0 }, "they are deleted in the end")
		mu.Lock()
		defer mu.Unlock()
		if len(published) != n+1 {
			t.Errorf("%d messages were published, want %d", len(published), n+1)
		}
		for id, times := range published {
			if times != 1 {
				t.Errorf("message %s was published %d times", id, times)
			}
		}
	})
}

// The relay hears of a commit: it need not wait for its next look.
func TestTheRelayIsNotified(t *testing.T) {
	d := migrated(t, pgtest.URL(t))
	ctx, cancel := context.WithCancel(t.Context())
	published, ended := make(chan time.Time), make(chan struct{})
	go func() {
		defer close(ended)
		d.Run(ctx, progress, func(batch []consumer.Message) []error {
			published <- time.Now()
			return make([]error, len(batch))
		})
	}()
	var waits []time.Duration
	for range 5 {
		begun := time.Now()
		d.exec(t, "INSERT INTO warren.outbox (routing_key) VALUES ('q')")
		waits = append(waits, (<-published).Sub(begun))
		rabbittest.Eventually(t, 10*time.Second, func() bool { return d.pending(t) == 0 }, "it is deleted, and the relay waits")
	}
	cancel()
	<-ended
	// The first may have come before the relay listened. Found by looking, all would take as long.
	if slices.Min(waits[1:]) >= listenFor/2 {
		t.Errorf("published after %v: that is no sooner than by looking every %v", waits, listenFor)
	}
}

// What never answers holds up nobody else, neither at first nor when it is tried again.
func TestTargetsThatDoNotAnswerHoldUpNobody(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		ctx, cancel := context.WithCancel(t.Context())
		published, asked, ended := make(chan string), make(chan struct{}, 1000), make(chan struct{})
		never := errors.New("not confirmed in time")
		go func() {
			defer close(ended)
			d.Run(ctx, progress, func(batch []consumer.Message) []error {
				errs := make([]error, len(batch))
				for i, m := range batch {
					if !strings.HasPrefix(m.RoutingKey, "never") {
						published <- string(m.Body)
						continue
					}
					asked <- struct{}{}
					if m.MessageID == "refused" {
						errs[i] = never
						continue
					}
					<-ctx.Done()
					errs[i] = fmt.Errorf("%w: stopping", consumer.ErrBroker)
				}
				return errs
			})
		}()
		insert := func(key, id, body string) {
			d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, message_id, body) VALUES ($1, $2, $3)", key, id, body)
		}
		for i := range 5 {
			insert(fmt.Sprint("never", i), fmt.Sprint(i), "x") // these are never answered
			insert(fmt.Sprint("never-again", i), "refused", "x")
		}
		for i := range 8 {
			insert("healthy", fmt.Sprint("h", i), fmt.Sprint(i))
		}
		begun := time.Now()
		for i := range 8 {
			if got := <-published; got != fmt.Sprint(i) {
				t.Errorf("got message %s, want %d", got, i)
			}
		}
		if took := time.Since(begun); took > rabbittest.Soon {
			t.Errorf("8 messages of a healthy queue took %v", took)
		}
		rabbittest.Eventually(t, 10*time.Second, func() bool { return d.pending(t) == 10 }, "only what is not answered is left")
		for range 10 {
			<-asked
		}
		cancel()
		<-ended
		if n := d.pending(t); n != 10 {
			t.Errorf("got %d rows, want 10", n)
		}
	})
}

// The same on a real node: a queue without a leader never confirms.
func TestAQueueWithoutALeaderHoldsUpNoOther(t *testing.T) {
	v := rabbittest.NewVhost(t)
	d := migrated(t, pgtest.URL(t))
	v.Declare(t, "out", nil)
	v.Declare(t, "lost", nil)
	consume(t, v.URL, d, new(logBuffer), idle)
	healthy := func(before string) time.Duration { // before each of 8 messages
		begun := time.Now()
		for i := range 8 {
			d.exec(t, "INSERT INTO warren.outbox (routing_key, body) VALUES ('"+before+"', $1), ('out', $1)", fmt.Sprint(i))
			rabbittest.Eventually(t, 20*time.Second, func() bool {
				return v.Ready(t, "out") == i+1 && d.number(t, "SELECT count(*) FROM warren.outbox WHERE routing_key = 'out'") == 0
			}, "the other has it")
		}
		return time.Since(begun)
	}
	v.Declare(t, "good", nil)
	usual := healthy("good")
	v.Drain(t, "out")
	restore := v.LoseLeader(t, "lost")
	if took := healthy("lost"); took > max(25*time.Second, 10*usual) {
		t.Errorf("8 messages of a healthy queue took %v, and %v with all well; one publish that is not confirmed takes 30 s", took, usual)
	}
	restore()
	rabbittest.Eventually(t, 3*time.Minute, func() bool { return d.pending(t) == 0 }, "the leader is back, and all are published")
	inOrder(t, v.Drain(t, "out"), func(i int) string { return fmt.Sprint(i) }, 8)
	inOrder(t, v.Drain(t, "lost"), func(i int) string { return fmt.Sprint(i) }, 8)
}

// The relay tells that it gets on, also while there is nothing to do, another process
// publishes, or the broker answers nothing; and tells no more once it is stuck.
func TestTheRelayTellsThatItGetsOn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d, other := migrated(t, url), newDatabase(t, url, new(logBuffer))
		ctx, cancel := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		beats := make([]chan struct{}, 2)
		for i, db := range []*Database{d, other} {
			beats[i] = make(chan struct{})
			ended.Go(func() {
				db.Run(ctx, func() {
					select {
					case beats[i] <- struct{}{}:
					case <-ctx.Done():
					}
				}, func(batch []consumer.Message) []error {
					<-ctx.Done()
					return make([]error, len(batch))
				})
			})
		}
		turns := func() {
			for _, beat := range beats {
				for range 4 {
					select {
					case <-beat:
					case <-time.After(3 * time.Minute):
						t.Fatal("nothing was told for three minutes")
					}
				}
			}
		}
		turns()
		d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key) VALUES ('q')")
		turns()
		cancel()
		ended.Wait()
	})
}

// The backlog is told as it is.
func TestTheBacklogIsMeasured(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string) {
		d := migrated(t, url)
		reader := sdkmetric.NewManualReader()
		if err := d.Meter(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))); err != nil {
			t.Fatal(err)
		}
		read := func() (messages int64, age float64, told int) {
			var all metricdata.ResourceMetrics
			if err := reader.Collect(t.Context(), &all); err != nil {
				t.Fatal(err)
			}
			for _, s := range all.ScopeMetrics {
				for _, m := range s.Metrics {
					switch data := m.Data.(type) {
					case metricdata.Gauge[int64]:
						messages, told = data.DataPoints[0].Value, told+1
					case metricdata.Gauge[float64]:
						age, told = data.DataPoints[0].Value, told+1
					}
				}
			}
			return messages, age, told
		}
		if _, _, told := read(); told != 0 {
			t.Errorf("%d gauges tell something before anything is measured", told)
		}
		d.backlog.Store(d.measure(t.Context()))
		if messages, age, told := read(); messages != 0 || age != 0 || told != 2 {
			t.Errorf("of an empty outbox: got %d messages and %v s (%d gauges), want none", messages, age, told)
		}
		past := map[*dialect]string{postgres: "now() - interval '100 seconds'", sqlite: "unixepoch() - 100"}[d.dsn.dialect]
		d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key, created_at) VALUES ('q', "+past+")")
		d.exec(t, "INSERT INTO "+d.outbox()+" (routing_key) VALUES ('q')")
		d.backlog.Store(d.measure(t.Context()))
		if messages, age, _ := read(); messages != 2 || age < 100 || age > 160 {
			t.Errorf("got %d messages and %v s, want 2 and a little over 100 s", messages, age)
		}
	})
}

// The relay survives a broker that goes away and comes back, and one that is cut
// off in the middle: every message arrives, in order but for repeats.
func TestTheRelaySurvivesTheBroker(t *testing.T) {
	v := rabbittest.NewVhost(t)
	d := migrated(t, pgtest.URL(t))
	v.Declare(t, "out", nil)
	var log logBuffer
	stop := consume(t, v.URL, d, &log, idle)
	const n = 5000
	for range 5 {
		d.exec(t, "INSERT INTO warren.outbox (routing_key, body) SELECT 'out', $1 || generate_series(1, $2) ", "", n/5)
		v.CloseConnections(t, "a test")
	}
	rabbittest.Eventually(t, 30*time.Second, func() bool { return d.pending(t) == 0 }, "the outbox is empty")
	stop()
	inOrder(t, v.Drain(t, "out"), func(i int) string { return fmt.Sprint(i%(n/5) + 1) }, n)
}

// inOrder fails unless messages, without repeats of a message id, are n, the i-th
// with body(i).
func inOrder(t *testing.T, got []amqp.Delivery, body func(i int) string, n int) {
	t.Helper()
	seen := make(map[string]bool)
	for _, m := range got {
		if seen[m.MessageId] {
			continue
		}
		if want := body(len(seen)); string(m.Body) != want {
			t.Fatalf("message %d is %s, want %s", len(seen), m.Body, want)
		}
		seen[m.MessageId] = true
	}
	if len(seen) != n {
		t.Errorf("got %d messages and %d repeats, want %d", len(seen), len(got)-len(seen), n)
	}
}
