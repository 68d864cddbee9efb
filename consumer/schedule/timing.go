package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/netresearch/go-cron"
)

// A timing is a rule for instants: next is the first one after the given one, and
// zero if there is none any more.
type timing interface {
	next(after time.Time) time.Time
}

// every is a timing at the multiples of a duration since 1970, so that every process
// means the same instants by it, whenever it began.
type every time.Duration

func (e every) next(after time.Time) time.Time {
	n := after.UnixNano()
	return time.Unix(0, n-n%int64(e)+int64(e)).UTC()
}

// crontab is the parser of cron expressions: with seconds or without, the classic
// meaning of two restricted day fields (either), and L, W and # as Quartz has them.
var crontab = cron.MustNewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow |
	cron.DowOrDom | cron.Descriptor | cron.Extended)

// parseCron reads a cron expression, which may begin with CRON_TZ=<zone>; zone counts
// if it does not, and empty means UTC.
func parseCron(expression, zone string) (timing, error) {
	if prefix, rest, found := cutZone(expression); found {
		if zone != "" {
			return nil, fmt.Errorf("it names the time zone %q, and so does TZ; leave one out", prefix)
		}
		zone, expression = prefix, rest
	}
	loc := time.UTC
	if zone != "" {
		var err error
		// Local would be another one on each machine.
		if loc, err = time.LoadLocation(zone); err != nil || zone == "Local" {
			return nil, fmt.Errorf("there is no time zone %q; one is called as Europe/Berlin is", zone)
		}
	}
	if strings.HasPrefix(expression, "@every") {
		return nil, errors.New("@every is what EVERY is for; set that in place of CRON")
	}
	parsed, err := crontab.Parse(withinRange(expression))
	if err != nil {
		return nil, err
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("it is of an unknown kind, %T", parsed)
	}
	// A timing of every hour keeps its pace through a repeated hour; the library is right
	// about these, and wants to know the zone.
	hourly := spec.Hour&everyHour == everyHour
	spec.Location = time.UTC
	if hourly {
		spec.Location = loc
	}
	t := &cronTiming{spec, loc, hourly}
	if t.next(time.Now()).IsZero() {
		return nil, errors.New("no day is like that")
	}
	return t, nil
}

// fields are those of a cron expression, the last ones first: what * means, their bounds
// and names.
var fields = []struct {
	all         string
	first, last int
	names       []string
}{
	{"0-6", 0, 7, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
	{"1-12", 1, 12, []string{"", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{"1-31", 1, 31, nil},
	{"0-23", 0, 23, nil},
	{"0-59", 0, 59, nil},
	{"0-59", 0, 59, nil},
}

// withinRange puts the first of a range for one with a step that leads past its end, as
// 8-10/3: crontab(5) takes such a step, the library does not.
func withinRange(expression string) string {
	parts := strings.Fields(expression)
	if len(parts) < 5 || len(parts) > len(fields) {
		return expression
	}
	for i := range parts {
		field := fields[len(parts)-1-i]
		number := func(s string) (int, bool) {
			if n := slices.Index(field.names, strings.ToLower(s)); n >= 0 {
				return n, true
			}
			n, err := strconv.Atoi(s)
			return n, err == nil
		}
		items := strings.Split(parts[i], ",")
		for j, item := range items {
			span, by, found := strings.Cut(item, "/")
			if span == "*" {
				span = field.all
			}
			from, to, _ := strings.Cut(span, "-")
			first, isFirst := number(from)
			last, isLast := number(to)
			step, err := strconv.Atoi(by)
			if found && isFirst && isLast && err == nil && first >= field.first && first <= last && last <= field.last && step > last-first {
				items[j] = strconv.Itoa(first)
			}
		}
		parts[i] = strings.Join(items, ",")
	}
	return strings.Join(parts, " ")
}

func cutZone(expression string) (zone, rest string, found bool) {
	for _, prefix := range []string{"CRON_TZ=", "TZ="} {
		if after, ok := strings.CutPrefix(strings.TrimSpace(expression), prefix); ok {
			zone, rest, _ = strings.Cut(after, " ")
			return zone, strings.TrimSpace(rest), true
		}
	}
	return "", expression, false
}

// everyHour are the bits of the hours 0 to 23.
const everyHour = 1<<24 - 1

// A cronTiming that is not hourly has the library reckon with what a clock at the wall
// shows, as if that were UTC, and looks itself for the instant at which it does. The
// library's own search through a zone loses the day of a change of 30 minutes, or at
// midnight, and doubles what stands in an hour that is repeated.
type cronTiming struct {
	spec   *cron.SpecSchedule
	loc    *time.Location
	hourly bool
}

func (c *cronTiming) next(after time.Time) time.Time {
	if c.hourly {
		return c.spec.Next(after.In(c.loc)).UTC()
	}
	wall := wallClock(after.In(c.loc))
	for {
		if wall = c.spec.Next(wall); wall.IsZero() {
			return wall
		}
		if t := instant(wall, c.loc); t.After(after) {
			return t
		}
	}
}

// wallClock is what a clock at the wall shows at t, as if it were UTC.
func wallClock(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// instant is the first one at which a clock in loc shows wall; if it never does, since
// it is set forward over that, the one at which it is set.
func instant(wall time.Time, loc *time.Location) time.Time {
	t := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, loc)
	start, end := t.ZoneBounds()
	switch shown := wallClock(t); {
	case shown.After(wall): // never shown; t lies behind the change
		return start.UTC()
	case shown.Before(wall): // never shown; t lies before the change
		return end.UTC()
	}
	if !start.IsZero() {
		_, before := start.Add(-time.Second).In(loc).Zone()
		if earlier := wall.Add(-time.Duration(before) * time.Second); earlier.Before(start) {
			return earlier.UTC() // shown before the clock was set back, too
		}
	}
	return t.UTC()
}

// newest is the newest instant of a timing that is after the one given and not after
// now; zero if there is none. It is quick however many there are between.
func newest(t timing, after, now time.Time) time.Time {
	from := after
	for back := time.Second; now.Add(-back).After(after); back *= 2 {
		if n := t.next(now.Add(-back)); !n.IsZero() && !n.After(now) {
			from = now.Add(-back)
			break
		}
	}
	var found time.Time
	for n := t.next(from); !n.IsZero() && !n.After(now); n = t.next(n) {
		found = n
	}
	return found
}
