package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A QueueState is what the broker says of a queue.
type QueueState struct {
	Queue     string `json:"queue"`
	Missing   bool   `json:"missing,omitempty"`
	Messages  int    `json:"messages"` // ready
	Consumers int    `json:"consumers"`
	Paused    *Pause `json:"paused,omitempty"`
}

// QueueStates looks at the queues that are named, and at those of the daemons that have
// answered.
func (c *Client) QueueStates(ctx context.Context, named []string, answers []Answer) ([]QueueState, error) {
	names := make(map[string]bool)
	for _, name := range named {
		names[name] = true
	}
	for _, a := range answers {
		if a.Status != nil && len(named) == 0 {
			for _, q := range a.Status.Queues {
				names[q.Queue] = true
			}
		}
	}
	var out []QueueState
	for _, name := range slices.Sorted(maps.Keys(names)) {
		s := QueueState{Queue: name}
		var err error
		if s.Messages, s.Consumers, err = c.Count(name); errors.Is(err, ErrNoQueue) {
			s.Missing = true
		} else if err != nil {
			return nil, fmt.Errorf("look at queue %s: %w", name, err)
		}
		if s.Paused, err = c.Paused(ctx, name); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Notes says in words what stands out among the daemons and queues of a fleet.
func Notes(answers []Answer, queues []QueueState, now time.Time) []string {
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	versions, working := make(map[string][]string), make(map[string]int)
	leaving := make(map[string]int)                  // consumers that daemons may have besides
	settings := make(map[string]map[string][]string) // daemons by queue and digest
	for _, a := range answers {
		name := a.Daemon.Name()
		versions[a.Daemon.Version] = append(versions[a.Daemon.Version], name)
		if a.Status == nil {
			continue
		}
		if a.Status.Quiet != nil {
			note("%s is quiet %s", name, a.Status.Quiet.Text(now))
		}
		for _, q := range a.Status.Queues {
			if settings[q.Queue] == nil {
				settings[q.Queue] = make(map[string][]string)
			}
			settings[q.Queue][q.Settings] = append(settings[q.Queue][q.Settings], name)
			switch {
			case q.Reason != "":
				note("%s does not consume %s: %s", name, q.Queue, q.Reason)
			case q.Paused == nil && a.Status.Quiet == nil:
				working[q.Queue]++
				if q.InFlight > 0 {
					// A consumer that was replaced by one with another prefetch counts until
					// what it was handed is done, which may be for as long as an attempt takes.
					leaving[q.Queue]++
				}
			}
			if !q.BrakedSince.IsZero() {
				note("%s has %s braked for %v: %s", name, q.Queue, max(0, a.Status.At.Sub(q.BrakedSince)).Round(time.Second), q.Fault)
			}
			for _, at := range q.Attempts {
				if at.InVain >= broker.SuspectAfter {
					note("%s works on %s of %s, which was handed out %d times in vain before: it may end the process", name, at.MessageID, q.Queue, at.InVain)
				}
			}
		}
		for _, s := range a.Status.Schedules {
			switch {
			case s.Fault != "":
				note("%s cannot fire schedule %s: %s", name, s.Schedule, s.Fault)
			case s.AheadMillis > 0:
				note("%s fires nothing of schedule %s for %v: what was fired before lies that far ahead of its clock",
					name, s.Schedule, (time.Duration(s.AheadMillis) * time.Millisecond).Round(time.Second))
			}
		}
	}
	if len(versions) > 1 {
		note("%d versions: %s", len(versions), groups(versions))
	}
	for _, queue := range slices.Sorted(maps.Keys(settings)) {
		if by := settings[queue]; len(by) > 1 {
			note("%s is configured in %d ways: %s; compare the output of config there", queue, len(by), groups(by))
		}
	}
	for _, q := range queues {
		ready := broker.Plural(q.Messages, "message", "messages") + " ready"
		switch {
		case q.Missing:
			note("there is no queue %s", q.Queue)
		case q.Paused != nil:
			note("%s is paused %s; %s", q.Queue, q.Paused.Text(now), ready)
		case q.Consumers == 0 && q.Messages == 0 && working[q.Queue] > 0: // all that the broker can say
			note("%s does not say how many messages it has, nor that daemons consume it (%d): it may have no leader, or its node is too busy; see rabbitmq-queues quorum_status %s",
				q.Queue, working[q.Queue], q.Queue)
		case q.Consumers == 0:
			note("nobody consumes %s; %s", q.Queue, ready)
		case q.Consumers > working[q.Queue]+leaving[q.Queue]:
			note("%s has %s, of which %d answer: the others are other programs, daemons that are older, busy or not asked, or on a machine that was lost, which the broker finds out within 20 s",
				q.Queue, broker.Plural(q.Consumers, "consumer", "consumers"), working[q.Queue])
		}
		if busy := BusyWith(answers, q.Queue, q.Messages); busy != "" {
			note("%s: %s", q.Queue, busy)
		}
	}
	return notes
}

// BusyWith says that a queue gets more than its daemons do, if that is so: all of them are
// busy, and much more is ready.
func BusyWith(answers []Answer, queue string, ready int) string {
	var inFlight, slots, daemons int
	for _, a := range answers {
		for i := 0; a.Status != nil && i < len(a.Status.Queues); i++ {
			if q := &a.Status.Queues[i]; q.Queue == queue {
				inFlight, slots, daemons = inFlight+int(q.InFlight), slots+q.Slots, daemons+1
			}
		}
	}
	if slots == 0 || inFlight < slots || ready < muchMore*slots {
		return ""
	}
	return fmt.Sprintf("all %d slots (daemons: %d) are busy, and %d messages ready: more comes than is done", slots, daemons, ready)
}

// muchMore is how many messages for each slot are a queue that grows, and not one that is
// worked.
const muchMore = 10

// groups are daemons by what they have in common, the fewest first: those are the ones to
// look at.
func groups(by map[string][]string) string {
	const most = 3 // that are named
	keys := slices.SortedFunc(maps.Keys(by), func(a, b string) int {
		if n := len(by[a]) - len(by[b]); n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	parts := make([]string, len(keys))
	for i, key := range keys {
		names := by[key]
		if len(names) > most {
			parts[i] = fmt.Sprintf("%s on %d daemons", key, len(names))
		} else {
			parts[i] = fmt.Sprintf("%s on %s", key, strings.Join(names, ", "))
		}
	}
	return strings.Join(parts, "; ")
}
