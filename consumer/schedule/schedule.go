package schedule

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// What becomes of the planned times of a schedule that have passed while nobody ran.
const (
	MisfireSkip = "skip" // none is made up for, unless it is less than a minute late
	MisfireOnce = "once" // the newest is, however late
	MisfireAll  = "all"  // each is, the oldest first
)

// misfireGrace is how late a firing may be and still be in time: a leader may have died
// just before it.
const misfireGrace = time.Minute

// tokenPrefix begins the names of the queues by which the leaders of schedules are
// elected.
const tokenPrefix = broker.OwnPrefix + "schedule."

// maxName leaves room in the message-id for a planned time.
const maxName = maxShort - len("@2006-01-02T15:04:05Z")

// A Schedule publishes a message to a queue at planned times: each of them once,
// however many Runners have the schedule. Exactly one of Every, Cron and Once is set.
type Schedule struct {
	// Name of the schedule. Required.
	Name string
	// Every is the time between two firings, in whole seconds. They are at its multiples
	// since 1970, in UTC.
	Every time.Duration
	// Cron is a cron expression of five fields, of six with seconds before them, or a
	// word such as @daily; it may begin with CRON_TZ=<zone>.
	Cron string
	// Once is true to fire when the first Runner of each Config.Version starts.
	Once bool
	// TimeZone is that of Cron, such as Europe/Berlin. Empty means UTC.
	TimeZone string
	// Jitter delays each firing by a part of it, which depends on the name and planned
	// time alone. It must be less than the time between two firings, by a clock that is never
	// set; on a day on which it is, the delay ends before the next firing. Zero means none.
	Jitter time.Duration
	// Misfire is one of the constants. Empty means MisfireOnce.
	Misfire string

	// Queue is where the message is published to. Required.
	Queue string
	// Body of the message. It may be empty.
	Body []byte
	// ContentType of the message. Empty means application/json.
	ContentType string
	// Type and Headers of the message, beside those that Warren writes.
	Type    string
	Headers map[string]any

	// EnvPrefix is what the names of this schedule's variables begin with; errors name
	// the variable that settles them.
	EnvPrefix string
}

func (s Schedule) withDefaults() Schedule {
	s.ContentType = cmp.Or(s.ContentType, "application/json")
	s.Misfire = cmp.Or(s.Misfire, MisfireOnce)
	return s
}

func (s Schedule) tokenQueue() string { return tokenPrefix + s.Name }

// timing returns the rule of a schedule, nil for one that fires once.
func (s Schedule) timing() (timing, error) {
	switch {
	case s.Once:
		return nil, nil
	case s.Cron != "":
		return parseCron(s.Cron, s.TimeZone)
	}
	return every(s.Every), nil
}

// outgoing is the message of a schedule, but for what each firing adds.
func (s Schedule) outgoing() (broker.Outgoing, error) {
	o, err := broker.Message{
		RoutingKey: s.Queue, Body: s.Body, ContentType: s.ContentType, Type: s.Type, Headers: s.Headers,
	}.Outgoing(broker.ForSchedule)
	o.Queue = s.Queue
	return o, err
}

// rule is the timing in words, by which a changed one is recognised.
func (s Schedule) rule() string {
	switch {
	case s.Once:
		return "once"
	case s.Cron == "":
		return "every " + s.Every.String()
	}
	zone, expression, found := cutZone(s.Cron)
	if !found {
		zone = cmp.Or(s.TimeZone, "UTC")
	}
	return fmt.Sprintf("cron %s (%s)", expression, zone)
}

// Validate returns every fault of s, joined, each naming the schedule or its variable.
func (s Schedule) Validate() error {
	s = s.withDefaults()
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	of := func(name string) string { return s.EnvPrefix + name }

	if s.Name == "" {
		fault("a schedule has no name")
	}
	if len(s.Name) > maxName {
		fault("schedule name %.20s... is too long: it may have %d bytes", s.Name, maxName)
	}
	if s.Queue == "" {
		fault("%s must be set: the queue that schedule %s publishes to", of("QUEUE"), s.Name)
	}
	if strings.HasPrefix(s.Queue, broker.OwnPrefix) {
		fault("%s is %s, one of Warren's own queues; name one that is worked", of("QUEUE"), s.Queue)
	}
	if !slices.Contains([]string{MisfireSkip, MisfireOnce, MisfireAll}, s.Misfire) {
		fault("%s is %q; it must be %s, %s or %s", of("MISFIRE"), s.Misfire, MisfireSkip, MisfireOnce, MisfireAll)
	}
	given := 0
	for _, set := range []bool{s.Every != 0, s.Cron != "", s.Once} {
		if set {
			given++
		}
	}
	if given != 1 {
		fault("schedule %s needs exactly one of %s, %s and %s; %d are set", s.Name, of("EVERY"), of("CRON"), of("ONCE"), given)
		return errors.Join(errs...)
	}
	if s.TimeZone != "" && s.Cron == "" {
		fault("%s is for %s alone", of("TZ"), of("CRON"))
	}
	if s.Every < 0 || s.Every%time.Second != 0 {
		fault("%s is %v; it must be a number of whole seconds, 1s at least", of("EVERY"), s.Every)
		return errors.Join(errs...)
	}
	timing, err := s.timing()
	if err != nil {
		fault("%s is %q: %w", of("CRON"), s.Cron, err)
	}
	if _, err := s.outgoing(); err != nil {
		fault("the message of schedule %s: %w; look at %s", s.Name, err, of("HEADERS"))
	}
	if rule := s.rule(); len(rule) > maxRule {
		fault("%s has %d bytes; a rule may have %d", of("CRON"), len(rule), maxRule)
	}
	if s.Jitter < 0 {
		fault("%s is %v; it must be positive", of("JITTER"), s.Jitter)
	}
	if timing != nil && s.Jitter > 0 {
		if gap := shortestGap(timing); s.Jitter >= gap {
			fault("%s is %v; it must be less than the %v between two firings", of("JITTER"), s.Jitter, gap)
		}
	}
	return errors.Join(errs...)
}

// shortestGap is the shortest time between the next hundred instants of a timing, by a clock
// that is never set: else a schedule would be at fault in some weeks of the year.
func shortestGap(t timing) time.Duration {
	if c, ok := t.(*cronTiming); ok {
		spec := *c.spec
		spec.Location = time.UTC
		t = &cronTiming{&spec, time.UTC, c.hourly}
	}
	shortest := time.Duration(1<<63 - 1)
	at := t.next(time.Now())
	for range 100 {
		n := t.next(at)
		if n.IsZero() {
			break
		}
		shortest = min(shortest, n.Sub(at))
		at = n
	}
	return shortest
}

// A plan says when a schedule that does not fire once is due.
type plan struct {
	timing  timing
	name    string
	jitter  time.Duration
	misfire string
}

// jittered is when a planned time is due. All processes agree on it. It is before the next
// planned time, which would otherwise take its place; where a clock is set forward, the gap
// may be shorter than the jitter.
func (p *plan) jittered(planned time.Time) time.Time {
	if p.jitter == 0 || planned.IsZero() {
		return planned
	}
	jitter := p.jitter
	if n := p.timing.next(planned); !n.IsZero() {
		jitter = min(jitter, n.Sub(planned))
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s@%d", p.name, planned.Unix()) // writing to a hash cannot fail
	return planned.Add(time.Duration(h.Sum64() % uint64(jitter)))
}

// next is the first planned time that is not done yet, and when it is due. Zero means
// that there is none any more.
func (p *plan) next(done time.Time) (planned, due time.Time) {
	planned = p.timing.next(done)
	return planned, p.jittered(planned)
}

// A decision is what to do about the planned times that have become due.
type decision struct {
	fire time.Time // the planned time to fire; zero means none
	done time.Time // up to where all is done then; zero means that nothing is due
	// missedFrom and missedTo are the first and last planned time that are passed over;
	// zero means none.
	missedFrom, missedTo time.Time
}

// decide returns what to do at now if all is done up to the given time.
func (p *plan) decide(done, now time.Time) decision {
	first, due := p.next(done)
	if first.IsZero() || due.After(now) {
		return decision{}
	}
	if p.misfire == MisfireAll {
		return decision{fire: first, done: first}
	}
	// The jitter is shorter than almost any gap, so that few planned times have to be looked at
	// for whether they are due.
	last, before := first, time.Time{}
	if n := newest(p.timing, first, now.Add(-p.jitter)); !n.IsZero() {
		last, before = n, newest(p.timing, done, n.Add(-time.Second))
	}
	for {
		n, due := p.next(last)
		if n.IsZero() || due.After(now) {
			break
		}
		last, before = n, last
	}
	d := decision{fire: last, done: last}
	if p.misfire == MisfireSkip && now.Sub(p.jittered(last)) > misfireGrace {
		d.fire, before = time.Time{}, last
	}
	if !before.IsZero() {
		d.missedFrom, d.missedTo = first, before
	}
	return d
}

// firingID is the message-id of a firing: the same, whoever makes it.
func firingID(schedule string, planned time.Time) string {
	return schedule + "@" + planned.UTC().Format(time.RFC3339)
}

// Outlook says what a valid schedule does next: a sentence for an operator.
func (s Schedule) Outlook(now time.Time, version string) string {
	if s.Once {
		return fmt.Sprintf("once for version %s, to queue %s", version, s.Queue)
	}
	var next []string
	for _, t := range s.upcoming(now, 3) {
		next = append(next, t.Format(time.RFC3339))
	}
	return fmt.Sprintf("next at %s, to queue %s", strings.Join(next, ", "), s.Queue)
}

// upcoming returns the next n planned times of a valid schedule after the given instant,
// fewer if there are no more, in its time zone. One that fires once has none.
func (s Schedule) upcoming(after time.Time, n int) []time.Time {
	timing, err := s.timing()
	if err != nil || timing == nil {
		return nil
	}
	loc := time.UTC
	if c, ok := timing.(*cronTiming); ok {
		loc = c.loc
	}
	var out []time.Time
	for range n {
		if after = timing.next(after); after.IsZero() {
			break
		}
		out = append(out, after.In(loc))
	}
	return out
}
