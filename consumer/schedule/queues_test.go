package schedule

import (
	"crypto/rand"
	"log/slog"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

func TestScheduleOfAMissingQueue(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll, EnvPrefix: "WARREN_SCHEDULE_TICK_"}
	r := runScheduled(t, v.URL, "", s)
	const fault = "there is no queue jobs: declare it, or name another one in WARREN_SCHEDULE_TICK_QUEUE"
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.Status()[0].Fault == fault }, "it says what is missing")
	lag := func() time.Duration { return r.loops[0].state.lag(time.Now()) }
	rabbittest.Eventually(t, 10*time.Second, func() bool { return lag() > 3*time.Second }, "it lags")
	v.Declare(t, "jobs", nil)
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		return lag() < 2*time.Second && r.Status()[0].Fault == "" && contains(r.log, "the schedule fires again")
	}, "it has caught up")
	if n := strings.Count(r.log.String(), "cannot fire the schedule"); n != 1 || !contains(r.log, "the schedule fires again") {
		t.Errorf("the log says %d times that it cannot be fired, want once, and that it can", n)
	}
	r.end()
	got := firings(t, v, "jobs", "tick")
	withoutGaps(t, got, time.Second)
	if len(got) < 2 { // from a lag of over 3 s to one under 2 s
		t.Errorf("%d firings, want those that were missed, too", len(got))
	}
}

// A queue that Warren declares is declared again.
func TestScheduleOfAQueueThatIsDeleted(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	q := broker.Queue{Name: "jobs", Type: broker.Quorum, RetryMax: time.Second}
	r := runConfig(t, v.URL, Config{Queues: []broker.Queue{q}, Schedules: []Schedule{{Name: "tick", Every: time.Second, Queue: "jobs"}}}, nil)
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.loops[0].state.fired.Load() > 0 }, "it fires")
	v.DeleteQueue(t, "jobs")
	before := r.loops[0].state.fired.Load()
	rabbittest.Eventually(t, 10*time.Second, func() bool { return r.loops[0].state.fired.Load() > before+1 }, "it fires again")
	equal(t, r.Status()[0].Fault, "")
	equal(t, contains(r.log, "cannot fire"), false)
}

// What keeps the queue of the tokens from being declared is said with a remedy that there
// is.
func TestDeclareSaysWhatSettlesIt(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "other"}
	v.Declare(t, "warren.schedule.differs", nil)
	for _, c := range []struct {
		user, name string
		passive    bool
		want       string
	}{
		{"^other$", "tick", false, "grant it with rabbitmqctl set_permissions, or declare it elsewhere and set WARREN_QUEUE_<NAME>_DECLARE=false for every queue"},
		{".*", "differs", false, "stop all daemons that have the schedule and delete the queue"},
		{".*", "tick", true, "or set WARREN_QUEUE_<NAME>_DECLARE=true for one of the queues"},
		{".*", "tick", false, ""},
		{"^other$", "tick", true, ""}, // declared elsewhere
	} {
		url := v.AddUser(t, rand.Text(), "pw", c.user, ".*", ".*")
		conn, err := broker.Dialer{}.Dial(t.Context(), url, broker.Options{Purpose: "test"})
		if err != nil {
			t.Fatal(err)
		}
		s.Name = c.name
		r, err := New(Config{Schedules: []Schedule{s}, Passive: c.passive}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got := errorText(r.Declare(conn)); !strings.Contains(got, c.want) || got == "" != (c.want == "") {
			t.Errorf("%+v: got error %q", c, got)
		}
		if c.name == "differs" {
			v.DeleteQueue(t, "warren.schedule.differs")
			if err := r.Declare(conn); err != nil {
				t.Errorf("the queue is deleted as the error says: got error %v", err)
			}
		}
		conn.Close()
	}
}

// TestABacklogOfFirings makes up for a thousand, each once.
func TestABacklogOfFirings(t *testing.T) {
	t.Parallel()
	const n = 1000
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", nil)
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	seasoned(t, v, s, record{done: time.Now().Add(-n * time.Second).Truncate(time.Second).UTC(), rule: s.rule()})
	start := time.Now()
	r := runScheduled(t, v.URL, "", s)
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "jobs") >= n }, "it has caught up")
	t.Logf("%d firings in %v", n, time.Since(start).Round(time.Millisecond))
	r.end()
	withoutGaps(t, firings(t, v, "jobs", "tick"), time.Second)
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, s.tokenQueue()) == 1 }, "one token is left")
}

// TestAQueueThatRefuses: whoever cannot publish leaves it to another to try.
func TestAQueueThatRefuses(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	v.Declare(t, "jobs", amqp.Table{amqp.QueueTypeArg: "classic", amqp.QueueMaxLenArg: 1, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish})
	s := Schedule{Name: "tick", Every: time.Second, Queue: "jobs", Misfire: MisfireAll}
	quick := func(r *Runner) { r.loops[0].timeouts.refused, r.loops[0].patience = time.Second, time.Second }
	start := func() *running { return runConfig(t, v.URL, Config{Schedules: []Schedule{s}}, quick) }
	a, b := start(), start()
	for _, r := range []*running{a, b, a} {
		awaitLeader(t, r)
		rabbittest.Eventually(t, 20*time.Second, func() bool { return !r.leading() }, "the next one may try")
		equal(t, contains(r.log, "cannot fire the schedule, trying again"), true)
		equal(t, contains(r.log, "cannot take part"), false)
	}
	fired := func() int64 { return a.loops[0].state.fired.Load() + b.loops[0].state.fired.Load() }
	before := fired()
	rabbittest.Eventually(t, time.Minute, func() bool {
		v.Drain(t, "jobs")
		return fired() >= before+5
	}, "it fires again when there is room")
}
