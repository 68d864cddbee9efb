package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A judgement is what the ledgers come to.
type judgement struct {
	messages  map[key]*message
	schedules map[string]event
	faults    []event
	deletions []event // of what has no name

	published, confirmed, done, dead, deleted, lost, fired, relayed int

	repeats    map[string]int // by cause
	void       string         // why nothing was shown
	violations []string
}

// violate takes note of something that must not be.
func (j *judgement) violate(format string, args ...any) {
	j.violations = append(j.violations, fmt.Sprintf(format, args...))
}

// judge decides about the events, which are in order.
func judge(events []event, minimum float64) *judgement {
	j := &judgement{messages: map[key]*message{}, schedules: map[string]event{}, repeats: map[string]int{}}
	var rows, arrivals []event
	left := false
	for _, e := range events {
		switch e.Event {
		case "fault":
			j.faults = append(j.faults, e)
		case "schedule":
			j.schedules[e.ID] = e
		case "row":
			rows = append(rows, e)
		case "arrived":
			arrivals = append(arrivals, e)
		case "left":
			left = true
			j.judgeQueue(e)
		case "measured":
			j.judgeMeasure(e)
		default:
			j.take(e)
		}
	}
	if !left {
		j.violate("nobody has looked at what the queues had at the end")
	}
	j.judgeSchedules()
	j.judgeRows(rows, arrivals)
	j.judgeMessages()
	j.judgeRate(events, minimum)
	return j
}

// take notes an event of a message.
func (j *judgement) take(e event) {
	if e.Event == "deleted" && e.ID == "" {
		j.deletions = append(j.deletions, e)
		j.deleted += e.Count
		return
	}
	k := key{e.Queue, e.ID}
	m := j.messages[k]
	if m == nil {
		m = &message{key: k, fate: "done"}
		j.messages[k] = m
	}
	switch e.Event {
	case "published":
		m.published, m.waits, m.fate = e.At, e.Waits, cmp.Or(e.Fate, "done")
	case "confirmed":
		m.confirmed = true
	case "begun":
		m.runs = append(m.runs, &attempt{number: e.Attempt, worker: e.Worker, begun: e.At})
	case "done", "failed":
		m.end(e)
	case "dead":
		m.dead = true
	case "deleted":
		j.deleted++
		m.deleted = true
	default:
		j.violate("no event is called %q", e.Event)
	}
}

// end notes the end of an attempt, of the oldest one that it may be.
func (m *message) end(e event) {
	i := slices.IndexFunc(m.runs, func(a *attempt) bool { return a.ended == 0 && a.worker == e.Worker && a.number == e.Attempt })
	if i < 0 {
		i = len(m.runs)
		m.runs = append(m.runs, &attempt{number: e.Attempt, worker: e.Worker, begun: e.At})
	}
	m.runs[i].ended, m.runs[i].failed, m.runs[i].exact = e.At, e.Event == "failed", e.Exact
}

// fired tells whether it is a schedule's.
func (m *message) fired() bool { return m.waits && strings.Contains(m.id, "@") }

// judgeSchedules has the schedules' messages expected.
func (j *judgement) judgeSchedules() {
	for name, s := range j.schedules {
		if s.Every <= 0 {
			j.violate("schedule %s has no interval", name)
			continue
		}
		for at := s.At - s.At%s.Every + s.Every; at <= s.Until; at += s.Every {
			k := key{s.Queue, name + "@" + time.UnixMicro(at).UTC().Format(time.RFC3339)}
			m := j.messages[k]
			if m == nil || !m.isDone() {
				j.violate("schedule %s did not fire what was planned for %s", name, clock(at))
				continue
			}
			j.fired++
		}
	}
	for _, m := range j.messages {
		name, planned, ok := strings.Cut(m.id, "@")
		s, known := j.schedules[name]
		if at, err := time.Parse(time.RFC3339, planned); ok && known && err == nil && s.Every > 0 && m.queue == s.Queue && m.published == 0 {
			if at.UnixMicro()%s.Every != 0 {
				j.violate("schedule %s fired at %s, which is not a multiple of its interval", name, planned)
			}
			m.published, m.waits = at.UnixMicro(), true
		}
	}
}

// judgeRows has each row arrive, the first time in the order of the rows.
func (j *judgement) judgeRows(rows, arrivals []event) {
	order := make(map[key]int, len(rows))
	for i, r := range rows {
		order[key{r.Queue, r.ID}] = i
	}
	arrived := make(map[key]bool, len(rows))
	newest := make(map[string]int)
	for _, a := range arrivals {
		k := key{a.Queue, a.ID}
		i, known := order[k]
		switch last, some := newest[a.Queue]; {
		case !known:
			j.violate("outbox: nobody has written the row %s of queue %s", a.ID, a.Queue)
		case arrived[k]:
			j.repeats["a row of the outbox was published again: once or more is what is promised"]++
		case some && i < last:
			j.violate("outbox: row %s of queue %s came after a later one", a.ID, a.Queue)
		default:
			newest[a.Queue] = i
		}
		arrived[k] = true
	}
	for _, r := range rows {
		if arrived[key{r.Queue, r.ID}] {
			j.relayed++
		} else {
			j.violate("outbox: row %s of queue %s never came", r.ID, r.Queue)
		}
	}
}

func (j *judgement) judgeMessages() {
	missing := make(map[string][]*message)
	for _, m := range j.sorted() {
		if m.published == 0 {
			j.violate("unexpected, nobody has published it: %s", m.story())
			continue
		}
		done := m.isDone()
		switch {
		case m.fired():
		default:
			j.published++
		}
		if m.confirmed {
			j.confirmed++
		}
		if done {
			j.done++
		}
		if m.dead {
			j.dead++
		}
		switch {
		case m.confirmed && !done && !m.dead && !m.deleted:
			missing[m.queue] = append(missing[m.queue], m)
		case m.dead && m.fate == "done":
			j.violate("dead, though nothing was wrong with it: %s", m.story())
		case done && m.fate == "dead":
			j.violate("done, though it was to be dead: %s", m.story())
		}
		j.judgeRuns(m)
	}
	for queue, all := range missing {
		for _, m := range j.undeleted(queue, all) {
			j.lost++
			j.violate("lost: %s", m.story())
		}
	}
}

// undeleted returns those of missing messages that no deletion of a queue explains.
func (j *judgement) undeleted(queue string, missing []*message) (lost []*message) {
	unnamed := 0
	for _, d := range j.deletions {
		if d.Queue == queue {
			unnamed += d.Count
		}
	}
	for _, m := range missing {
		onItsWay := slices.ContainsFunc(j.deletions, func(d event) bool {
			last := m.last()
			return d.Queue == queue && m.moves() && last >= d.At-moving && last <= d.Until
		})
		switch {
		case onItsWay:
			j.deleted++
		case unnamed > 0:
			unnamed--
		default:
			lost = append(lost, m)
		}
	}
	return lost
}

// sorted returns the messages as they were published.
func (j *judgement) sorted() []*message {
	all := make([]*message, 0, len(j.messages))
	for _, m := range j.messages {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *message) int {
		return cmp.Or(cmp.Compare(a.published, b.published), cmp.Compare(a.queue, b.queue), cmp.Compare(a.id, b.id))
	})
	return all
}

// judgeRuns finds a cause for each attempt that has been made before, and for each that
// came after the work was done.
func (j *judgement) judgeRuns(m *message) {
	slices.SortStableFunc(m.runs, func(a, b *attempt) int { return cmp.Compare(a.begun, b.begun) })
	effects := 0
	for i, r := range m.runs {
		if r.exact {
			effects++
		}
		repeat := slices.ContainsFunc(m.runs[:i], func(e *attempt) bool {
			return e.number >= r.number || e.ended != 0 && !e.failed && e.ended <= r.begun
		})
		if !repeat || r.exact {
			continue
		}
		cause := j.cause(m, m.runs[:i], r)
		if cause == "" {
			j.violate("repeated without a cause: %s; the faults then: %s", m.story(), j.around(m.runs[0].begun, r.begun))
			cause = "none"
		}
		j.repeats[cause]++
	}
	if effects > 1 {
		j.violate("its effect is there %d times: %s", effects, m.story())
	}
}

func (j *judgement) judgeQueue(e event) {
	if e.Ready != 0 || e.Unacked != 0 {
		j.violate("queue %s had %d messages ready and %d unacknowledged at the end, want none", e.Queue, e.Ready, e.Unacked)
	}
	if e.Consumers < e.Wanted {
		j.violate("queue %s had %d consumers at the end, want %d", e.Queue, e.Consumers, e.Wanted)
	}
}

// kept is how many channels for publishing a worker may keep open that it once needed at
// the same time, each with a goroutine, and then some.
const kept = 80

// judgeMeasure compares what a worker, or all, had at the start and at the end.
func (j *judgement) judgeMeasure(e event) {
	most := map[string]int64{
		"goroutines": e.Before + kept,
		"channels":   e.Before + kept,
		"memory":     2*e.Before + 64<<20,
	}
	switch limit, known := most[e.Kind]; {
	case !known:
		j.violate("nobody knows how much %q may be", e.Kind)
	case e.After > limit:
		j.violate("%s of worker %s: %d at the end, %d at the start", e.Kind, e.Worker, e.After, e.Before)
	}
}

// judgeRate voids a run in which too little happened before the first fault.
func (j *judgement) judgeRate(events []event, minimum float64) {
	if len(j.faults) == 0 {
		j.void = "there was no fault"
		return
	}
	var began, done int64
	for _, e := range events {
		if e.At >= j.faults[0].At {
			break
		}
		switch e.Event {
		case "published":
			began = cmp.Or(began, e.At)
		case "done":
			done++
		}
	}
	seconds := float64(j.faults[0].At-began) / 1e6
	if rate := float64(done) / seconds; began == 0 || rate < minimum {
		j.void = fmt.Sprintf("%.0f messages a second were done before the first fault, fewer than %.0f", rate, minimum)
	}
}
