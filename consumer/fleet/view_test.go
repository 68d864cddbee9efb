package fleet

import (
	"encoding/json"
	"math"
	"testing"
	"time"
)

func TestView(t *testing.T) {
	now := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	status := func(n int, at time.Time, acks int64) Answer {
		return Answer{Daemon: Daemon{Host: "vm", PID: n}, Status: &Status{At: at, Queues: []QueueStatus{{
			Queue: "emails", InFlight: 1, Slots: 8, Counts: map[string]int64{"ack": acks},
			Attempts: []Attempt{{MessageID: "a", Began: at.Add(-time.Duration(n) * time.Minute)}},
			Failures: []Failure{{MessageID: "f", At: at.Add(-time.Duration(n) * time.Hour)}},
		}}}}
	}
	var v View
	v.Add(Answer{Error: "not a status"}, now, WatchEvery)
	v.Add(status(1, now, 100), now, WatchEvery)
	v.Add(status(2, now.Add(time.Hour), 0), now, WatchEvery) // by another clock
	if q := v.Queues(); len(q) != 1 || q[0].Daemons != 2 || q[0].Rates["ack"] != 0 || q[0].InFlight != 2 || q[0].Slots != 16 {
		t.Errorf("at first: got %+v", q)
	}
	later := now.Add(2 * time.Second)
	v.Add(status(1, later, 120), later, WatchEvery)
	v.Add(status(2, now.Add(time.Hour+2*time.Second), 10), later, WatchEvery)
	if q := v.Queues(); q[0].Rates["ack"] != 15 {
		t.Errorf("then: got %v, want 10 and 5 a second", q[0].Rates)
	}
	// A restart in between has no negative rate, and one that is gone is forgotten.
	v.Add(status(1, later.Add(2*time.Second), 0), later.Add(2*time.Second), WatchEvery)
	if q := v.Queues(); q[0].Rates["ack"] != 5 {
		t.Errorf("after a restart: got %v, want 5 a second", q[0].Rates)
	}
	if a := v.Attempts(1); len(a) != 1 || a[0].Daemon != "vm/2" || a[0].Age != 2*time.Minute {
		t.Errorf("the oldest attempt: got %+v", a)
	}
	if f := v.Failures(10); len(f) != 2 || f[0].Daemon != "vm/1" || f[0].Ago != time.Hour {
		t.Errorf("the failures: got %+v, want the last one first", f)
	}
	if a := v.Answers(later.Add(3*WatchEvery + time.Second)); len(a) != 1 || a[0].Daemon.PID != 1 {
		t.Errorf("later: got %+v, want the one that still reports", a)
	}
	// One that was asked to report less often is waited for longer, also if it is asked to report
	// more often now.
	v.Add(status(3, later, 0), later, 2*WatchEvery)
	v.Add(status(1, later.Add(WatchEvery), 0), later.Add(WatchEvery), WatchEvery)
	if a := v.Answers(later.Add(4 * WatchEvery)); len(a) != 2 {
		t.Errorf("later, where one was to report half as often: got %+v, want both", a)
	}
	if a := v.Answers(later.Add(6*WatchEvery + time.Second)); len(a) != 0 {
		t.Errorf("at last: got %+v, want none", a)
	}
}

// Daemons and operators of two versions understand each other: what the one does not know it
// ignores, and what the other does not say is empty.
func TestTwoVersions(t *testing.T) {
	older := `{"daemon":{"host":"vm","pid":1,"program":"warren","version":"v1","began":"2026-11-26T02:00:00Z"},"status":{"at":"2026-11-26T03:00:00Z","node":"mq1:5672","broker":"4.3.6",
		"queues":[{"queue":"emails","in_flight":1,"slots":8,"counts":{"ack":1},"attempts":[{"message_id":"a","attempt":2,"began":"2026-11-26T02:59:00Z"}]}],
		"schedules":[{"schedule":"nightly","leading":true,"next":"2026-11-27T02:00:00Z"}]}}`
	var a Answer
	if err := json.Unmarshal([]byte(older), &a); err != nil || a.Status.Queues[0].Attempts[0].TraceID != "" || a.Status.Queues[0].Attempts[0].Attempt != 2 || !a.Status.Schedules[0].Last.IsZero() {
		t.Errorf("an older daemon: got %+v and error %v", a.Status, err)
	}
	a.Status.Queues[0].Attempts[0].TraceID = "0af7651916cd43dd8448eb211c80319c"
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var before struct { // what an operator knew then
		Status struct {
			Queues []struct {
				Attempts []struct {
					MessageID string `json:"message_id"`
					Attempt   int    `json:"attempt"`
				} `json:"attempts"`
			} `json:"queues"`
		} `json:"status"`
	}
	if err := json.Unmarshal(text, &before); err != nil || before.Status.Queues[0].Attempts[0].MessageID != "a" || before.Status.Queues[0].Attempts[0].Attempt != 2 {
		t.Errorf("an older operator: got %+v and error %v", before, err)
	}
}

// Whatever is asked for, a daemon reports neither more often than it always has nor so seldom
// that nobody would know of it.
func TestEvery(t *testing.T) {
	for millis, want := range map[int64]time.Duration{
		0: WatchEvery, -1: WatchEvery, 1: WatchEvery, math.MinInt64: WatchEvery, 2001: 2001 * time.Millisecond, 8000: 8 * time.Second, 60_000: MaxWatchEvery, math.MaxInt64: MaxWatchEvery,
	} {
		if got := (Request{EveryMillis: millis}).Every(); got != want {
			t.Errorf("%d ms: got %v, want %v", millis, got, want)
		}
	}
}
