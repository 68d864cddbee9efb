package schedule

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestFaultsOfSchedules(t *testing.T) {
	good := Schedule{Name: "nightly", Queue: "reports", Cron: "0 2 * * *", EnvPrefix: "WARREN_SCHEDULE_NIGHTLY_"}
	for _, c := range []struct {
		change func(*Schedule)
		want   string // a part of the error; empty: none
	}{
		{func(*Schedule) {}, ""},
		{func(s *Schedule) { s.Cron, s.Every = "", time.Hour; s.Jitter = 59 * time.Minute }, ""},
		{func(s *Schedule) { s.Cron, s.Once = "", true }, ""},
		{func(s *Schedule) { s.TimeZone, s.Misfire = "Asia/Kathmandu", MisfireAll }, ""},
		{func(s *Schedule) { s.Name = "" }, "has no name"},
		{func(s *Schedule) { s.Name = strings.Repeat("n", 250) }, "too long"},
		{func(s *Schedule) { s.Queue = "" }, "WARREN_SCHEDULE_NIGHTLY_QUEUE must be set"},
		{func(s *Schedule) { s.Queue = "warren.schedule.x" }, "Warren's own queues"},
		{func(s *Schedule) { s.Headers = map[string]any{"x": struct{}{}} }, "look at WARREN_SCHEDULE_NIGHTLY_HEADERS"},
		{func(s *Schedule) { s.Cron = "" }, "exactly one of WARREN_SCHEDULE_NIGHTLY_EVERY, WARREN_SCHEDULE_NIGHTLY_CRON and WARREN_SCHEDULE_NIGHTLY_ONCE; 0 are set"},
		{func(s *Schedule) { s.Every, s.Once = time.Hour, true }, "3 are set"},
		{func(s *Schedule) { s.Cron = "0 2 * *" }, `WARREN_SCHEDULE_NIGHTLY_CRON is "0 2 * *": expected 5 to 6 fields`},
		{func(s *Schedule) { s.TimeZone = "Mars" }, `no time zone "Mars"`},
		{func(s *Schedule) { s.Cron, s.Every, s.TimeZone = "", time.Hour, "Europe/Berlin" }, "WARREN_SCHEDULE_NIGHTLY_TZ is for WARREN_SCHEDULE_NIGHTLY_CRON alone"},
		{func(s *Schedule) { s.Cron, s.Every = "", 1500*time.Millisecond }, "whole seconds"},
		{func(s *Schedule) { s.Cron, s.Every = "", -time.Second }, "whole seconds"},
		{func(s *Schedule) { s.Misfire = "twice" }, `WARREN_SCHEDULE_NIGHTLY_MISFIRE is "twice"; it must be skip, once or all`},
		{func(s *Schedule) { s.Jitter = -time.Second }, "must be positive"},
		{func(s *Schedule) { s.Jitter = 24 * time.Hour }, "less than the 24h0m0s between two firings"},
		{func(s *Schedule) { s.Cron, s.Jitter = "0,5 * * * *", 5*time.Minute }, "less than the 5m0s between two firings"},
	} {
		s := good
		c.change(&s)
		got := errorText(s.Validate())
		if !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%+v: got error %q, want %q", s, got, c.want)
		}
	}
	cfg := Config{Schedules: []Schedule{good, good}}
	if got := errorText(cfg.Validate()); !strings.Contains(got, "schedule nightly stands in the list of schedules twice") {
		t.Errorf("got error %q, want the schedule that stands there twice", got)
	}
}

func TestDecisions(t *testing.T) {
	at := func(clock string) time.Time {
		if clock == "" {
			return time.Time{}
		}
		out, err := time.Parse("2006-01-02 15:04:05", "2026-11-21 "+clock)
		if err != nil {
			t.Fatal(err)
		}
		return out.UTC()
	}
	hourly := every(time.Hour)
	for _, c := range []struct {
		timing                       timing
		misfire                      string
		done, now                    string
		fire, after                  string
		missedFrom, missedTo, sketch string
	}{
		{hourly, MisfireOnce, "02:00:00", "02:59:59", "", "", "", "", "nothing is due"},
		{hourly, MisfireOnce, "02:00:00", "03:00:00", "03:00:00", "03:00:00", "", "", "in time"},
		{hourly, MisfireSkip, "02:00:00", "03:00:30", "03:00:00", "03:00:00", "", "", "a leader has just died"},
		{hourly, MisfireSkip, "02:00:00", "03:01:01", "", "03:00:00", "03:00:00", "03:00:00", "too late to be in time"},
		{hourly, MisfireSkip, "02:00:00", "07:30:00", "", "07:00:00", "03:00:00", "07:00:00", "nobody ran"},
		{hourly, MisfireSkip, "02:00:00", "07:00:10", "07:00:00", "07:00:00", "03:00:00", "06:00:00", "nobody ran until just now"},
		{hourly, MisfireOnce, "02:00:00", "07:30:00", "07:00:00", "07:00:00", "03:00:00", "06:00:00", "the newest is made up for"},
		{hourly, MisfireAll, "02:00:00", "07:30:00", "03:00:00", "03:00:00", "", "", "the oldest comes first"},
		{hourly, MisfireAll, "06:00:00", "07:30:00", "07:00:00", "07:00:00", "", "", "the last of them"},
		{hourly, MisfireAll, "07:00:00", "07:30:00", "", "", "", "", "all are made up for"},
		{every(time.Second), MisfireOnce, "02:00:00", "03:00:00", "03:00:00", "03:00:00", "02:00:01", "02:59:59", "many"},
		{every(time.Second), MisfireSkip, "02:00:00", "02:00:03", "02:00:03", "02:00:03", "02:00:01", "02:00:02", "a succession of three seconds"},
		{hourly, MisfireOnce, "09:00:00", "07:30:00", "", "", "", "", "the record is ahead of the clock"},
		{mustCron(t, "0 2 * * *", ""), MisfireOnce, "02:00:00", "23:59:59", "", "", "", "", "a cron expression"},
	} {
		p := plan{timing: c.timing, name: "x", misfire: c.misfire}
		got := p.decide(at(c.done), at(c.now))
		want := decision{fire: at(c.fire), done: at(c.after), missedFrom: at(c.missedFrom), missedTo: at(c.missedTo)}
		if got != want {
			t.Errorf("%s (%s, done up to %s, at %s):\n got %+v\nwant %+v", c.sketch, c.misfire, c.done, c.now, got, want)
		}
	}
}

// TestJitter looks at the jitter of a thousand firings: within its bounds, the same for
// everybody, spread, and never such that a firing is missed or made twice.
func TestJitter(t *testing.T) {
	p := plan{timing: every(time.Minute), name: "nightly", jitter: 30 * time.Second, misfire: MisfireOnce}
	other := p
	other.name = "cleanup"
	start := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	var sum time.Duration
	same := 0
	done := start
	for i := range 1000 {
		planned := start.Add(time.Duration(i+1) * time.Minute)
		due := p.jittered(planned)
		by := due.Sub(planned)
		if by < 0 || by >= p.jitter {
			t.Fatalf("jitter of %v: got %v, want 0 to %v", planned, by, p.jitter)
		}
		sum += by
		if other.jittered(planned).Equal(due) {
			same++
		}
		if d := p.decide(done, due.Add(-time.Nanosecond)); !d.done.IsZero() {
			t.Fatalf("before %v: got %+v, want nothing", due, d)
		}
		if d := p.decide(done, due); d != (decision{fire: planned, done: planned}) {
			t.Fatalf("at %v: got %+v, want %v", due, d, planned)
		}
		done = planned
	}
	if mean := sum / 1000; mean < 13*time.Second || mean > 17*time.Second || same > 10 {
		t.Errorf("mean jitter %v, want about 15 s; the same as of another schedule %d times", mean, same)
	}
	// After an hour away: the newest that is due already, not the newest that is planned.
	now := start.Add(time.Hour)
	d := p.decide(start, now)
	if next, due := p.next(d.fire); p.jittered(d.fire).After(now) || !due.After(now) {
		t.Errorf("at %v: got %v, due at %v, while %v is due at %v", now, d.fire, p.jittered(d.fire), next, due)
	}
}

// On the day on which the clock is set forward, 02:30 is made up for at 03:00, so that two
// planned times are closer than on any other day.
var closerOnce = Schedule{Name: "x", Queue: "q", Cron: "30 2,3 * * *", TimeZone: "Europe/Berlin", Jitter: 59 * time.Minute}

// A schedule is valid all the year, or never.
func TestJitterIsValidBeforeTheClockChanges(t *testing.T) {
	for _, from := range []string{"2026-01-15T12:00:00Z", "2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"} {
		synctest.Test(t, func(t *testing.T) {
			at, err := time.Parse(time.RFC3339, from)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Until(at)) // from 2000 on
			if err := closerOnce.Validate(); err != nil {
				t.Errorf("at %s: got %v, want no error", from, err)
			}
			tooLong := closerOnce
			tooLong.Jitter = time.Hour
			if err := tooLong.Validate(); !strings.Contains(errorText(err), "less than the 1h0m0s between two firings") {
				t.Errorf("at %s: got %v, want that JITTER is too long", from, err)
			}
		})
	}
}

func TestJitterWhenTheClockChanges(t *testing.T) {
	for _, misfire := range []string{MisfireSkip, MisfireOnce, MisfireAll} {
		for i := range 100 {
			p := plan{timing: mustCron(t, closerOnce.Cron, closerOnce.TimeZone), name: strconv.Itoa(i), jitter: closerOnce.Jitter, misfire: misfire}
			done := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
			for range 4 {
				planned, due := p.next(done)
				if got := p.decide(done, due); got != (decision{fire: planned, done: planned}) {
					t.Fatalf("%s, %d: at %v got %+v, want %v fired and none missed", misfire, i, due, got, planned)
				}
				done = planned
			}
		}
	}
}

func TestRecordsSurviveTheBroker(t *testing.T) {
	r := record{done: time.UnixMilli(1_795_226_400_123).UTC(), rule: "every 5s"}.withVersion("v1").withVersion("v2").withVersion("v1")
	now := r.done.Add(time.Hour)
	msg := r.token("nightly", "every 5s", "id")
	if err := msg.Headers.Validate(); err != nil {
		t.Fatal(err)
	}
	equal(t, recordOf(&amqp.Delivery{Headers: msg.Headers}, now), r)
	equal(t, r.versions, []string{"v1", "v2"})
	equal(t, recordOf(&amqp.Delivery{Headers: record{}.token("nightly", "every 5s", "id").Headers}, now), record{})
	equal(t, r.until(now), r)
	equal(t, r.until(r.done.Add(-time.Hour)).done, r.done.Add(-time.Hour))

	older := record{done: r.done.Add(-time.Second), rule: "every 7s", versions: []string{"v3"}}
	for _, m := range []record{r.merged(older), older.merged(r)} {
		equal(t, []any{m.done, m.rule, len(m.versions)}, []any{r.done, "every 5s", 3})
	}
	many := record{}
	for i := range 3 * maxVersions {
		many = many.withVersion(time.Duration(i).String())
	}
	equal(t, []any{len(many.versions), many.versions[maxVersions-1]}, []any{maxVersions, "299ns"})
}

// What no daemon writes is not believed of a token, whoever wrote it.
func TestRecordsHaveBounds(t *testing.T) {
	now := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	long := strings.Repeat("x", 100_000)
	for _, headers := range []amqp.Table{
		{headerDone: "soon", headerVersions: int32(1)},
		{headerDone: int64(0)}, {headerDone: int64(-1)}, {headerDone: int64(math.MaxInt64)}, {headerDone: int64(math.MinInt64)},
		{headerDone: now.AddDate(2, 0, 0).UnixMilli(), headerRule: "every 1s"},
		{headerDone: now.Unix(), headerRule: "every 1s"}, // seconds: 1970
		{headerVersions: []any{long, int32(1), nil, amqp.Table{"a": "b"}}},
		{headerVersions: amqp.Table{"a": "b"}},
	} {
		equal(t, recordOf(&amqp.Delivery{Headers: headers}, now), record{})
	}
	equal(t, recordOf(&amqp.Delivery{Headers: amqp.Table{headerDone: now.UnixMilli(), headerRule: long}}, now), record{done: now})
	var many []any
	for i := range 10_000 {
		many = append(many, strconv.Itoa(i))
	}
	equal(t, len(recordOf(&amqp.Delivery{Headers: amqp.Table{headerVersions: many}}, now).versions), maxVersions)
}
