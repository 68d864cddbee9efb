package page

import (
	"cmp"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
)

// An overview is the whole fleet.
type overview struct {
	At         time.Time
	Err        string // why there is nothing new
	Banners    []string
	Notes      []string
	Queues     []queueRow
	AllQueues  int
	Daemons    []daemonRow
	Schedules  []scheduleRow
	Ready      int
	Dead       int
	Waiting    int
	InFlight   int
	Slots      int
	In, Out    float64
	Q, Sort    string
	Columns    []column
	Incomplete bool // not all queues have been looked at yet
}

// A queueRow is a queue as the overview has it.
type queueRow struct {
	Queue     string
	Known     bool // how long it is
	Waits     bool // it is known what waits
	Ready     int
	Waiting   int
	Dead      int
	Consumers int
	fleet.QueueSum
	In, Out []float64
	Oldest  string
	State   string // a word
	Level   string // ok, idle, warn or bad
	Reason  string
	Since   time.Time
}

// InRate and OutRate are those of the last moments.
func (q queueRow) InRate() float64 { return last(q.In) }

// OutRate is how many messages a second have left for good.
func (q queueRow) OutRate() float64 { return q.Rates["ack"] + q.Rates["dead"] }

type daemonRow struct {
	fleet.Daemon
	Status   *fleet.Status
	Name     string
	InFlight int64
	Slots    int
	Queues   []string
	Quiet    string
	Here     bool // it serves this page
}

type scheduleRow struct {
	Schedule string
	Last     time.Time // that one of these daemons has fired
	Next     time.Time
	Leader   string
	Daemons  int
	Lag      time.Duration
	Faults   []string
}

type column struct{ Key, Title, Class string }

var overviewColumns = []column{
	{"queue", "Queue", ""}, {"state", "State", ""}, {"ready", "Ready", "n"}, {"in", "In/s", "n wide"}, {"out", "Done/s", "n"}, {"", "Last 5 minutes", "wide"}, {"flight", "In flight", "n"},
	{"oldest", "Oldest waiting", "n wide"}, {"waiting", "Waiting", "n wide"}, {"dead", "Dead", "n"},
}

// sees makes the overview of a picture.
func (h *hub) sees(p *picture, now time.Time) overview {
	answers := p.view.Answers(now) // forgets those that are gone
	sums := make(map[string]fleet.QueueSum)
	for _, q := range p.view.Queues() {
		sums[q.Queue] = q
	}
	reasons := make(map[string][]string)
	for _, a := range answers {
		for _, q := range a.Status.Queues {
			switch {
			case q.Reason != "":
				reasons[q.Queue] = append(reasons[q.Queue], a.Daemon.Name()+": "+q.Reason)
			case !q.BrakedSince.IsZero():
				reasons[q.Queue] = append(reasons[q.Queue], q.Fault)
			}
		}
	}
	names := h.names(p)
	o := overview{AllQueues: len(names), Columns: overviewColumns}
	p.mu.Lock()
	defer p.mu.Unlock()
	o.At = p.answered
	switch {
	case p.err != nil:
		o.Err = p.err.Error()
	case len(answers) == 0 && now.Sub(p.began) > firstPicture:
		o.Err = "no daemon has answered yet"
	}
	if p.client != nil && p.client.Blocked() {
		o.Banners = append(o.Banners, "An alarm blocks the broker: it takes no messages. Its memory or disk is full; rabbitmq-diagnostics alarms says which.")
	}
	var states []fleet.QueueState
	for _, name := range names {
		s := p.states[name]
		row := queueRow{Queue: name, Known: s.seen, Waits: !s.waitsAt.IsZero(), Ready: s.Messages, Waiting: s.waiting, Dead: s.dead, Consumers: s.Consumers, QueueSum: sums[name]}
		row.QueueSum.Queue = name
		if row.Paused == nil {
			row.Paused = s.Paused
		}
		if hist := p.history[name]; hist != nil {
			row.In, row.Out = hist.in, hist.out
			if age, atLeast, known := hist.oldest(now); known {
				row.Oldest = short(age)
				if atLeast {
					row.Oldest = "> " + row.Oldest
				}
			}
		}
		row.judge(s, reasons[name], now)
		if row.Level == "bad" && row.Ready > 0 && s.Consumers == 0 {
			o.Banners = append(o.Banners, fmt.Sprintf("%s: %s ready, and nobody works them.", name, plural(row.Ready, "message is", "messages are")))
		}
		if s.seen && !s.Missing && s.Consumers > 0 {
			s.Paused = row.Paused
			states = append(states, s.QueueState)
		}
		o.Incomplete = o.Incomplete || !s.seen
		o.Queues = append(o.Queues, row)
		o.Ready, o.Dead, o.Waiting = o.Ready+row.Ready, o.Dead+row.Dead, o.Waiting+row.Waiting
		o.InFlight, o.Slots = o.InFlight+int(row.InFlight), o.Slots+row.Slots
		o.In, o.Out = o.In+row.InRate(), o.Out+row.OutRate()
	}
	o.Notes = fleet.Notes(answers, states, now)
	schedules := make(map[string]*scheduleRow)
	for _, a := range answers {
		d := daemonRow{Daemon: a.Daemon, Status: a.Status, Name: a.Daemon.Name()}
		for _, q := range a.Status.Queues {
			d.InFlight, d.Slots, d.Queues = d.InFlight+q.InFlight, d.Slots+q.Slots, append(d.Queues, q.Queue)
		}
		if a.Status.Quiet != nil {
			d.Quiet = a.Status.Quiet.Text(now)
		}
		o.Daemons = append(o.Daemons, d)
		for _, s := range a.Status.Schedules {
			row := schedules[s.Schedule]
			if row == nil {
				row = &scheduleRow{Schedule: s.Schedule}
				schedules[s.Schedule] = row
			}
			row.Daemons++
			if s.Last.After(row.Last) {
				row.Last = s.Last
			}
			if s.Leading {
				row.Leader, row.Next = d.Name, s.Next
				if !s.Next.IsZero() {
					row.Lag = max(0, a.Status.At.Sub(s.Next))
				}
			}
			if s.Fault != "" {
				row.Faults = append(row.Faults, d.Name+": "+s.Fault)
			}
		}
	}
	for _, row := range schedules {
		o.Schedules = append(o.Schedules, *row)
	}
	slices.SortFunc(o.Schedules, func(a, b scheduleRow) int { return strings.Compare(a.Schedule, b.Schedule) })
	return o
}

// judge says in a word how the queue stands, and why.
func (q *queueRow) judge(s queueLengths, reasons []string, now time.Time) {
	why := func() string {
		if len(reasons) == 0 {
			return ""
		}
		if len(reasons) > 1 {
			return fmt.Sprintf("%s, and on %d more", reasons[0], len(reasons)-1)
		}
		return reasons[0]
	}
	by := plural(q.Daemons, "daemon", "daemons")
	switch {
	case q.Paused != nil:
		q.State, q.Level, q.Reason = "paused", "warn", q.Paused.Text(now)
	case !s.seen && q.Daemons == 0:
		q.State, q.Level = "not known yet", "idle"
	case s.seen && s.Missing:
		q.State, q.Level, q.Reason = "missing", "bad", "there is no such queue"
	case q.Daemons > 0 && q.Unwell == q.Daemons:
		q.State, q.Level, q.Reason = "not consumed", "bad", why()
	case q.Daemons > 0 && q.Quiet == q.Daemons:
		q.State, q.Level, q.Reason = "quiet", "warn", "each of its daemons has been told to take nothing"
	case s.seen && s.Consumers == 0 && s.Messages == 0 && q.Daemons > q.Unwell+q.Quiet: // all that the broker can say
		q.State, q.Level = "no answer", "bad"
		q.Reason = "consumed by " + by + ", but it does not say so, nor how many messages it has: it may have no leader, or its node is too busy; see rabbitmq-queues quorum_status " + q.Queue
	case s.seen && s.Consumers == 0:
		q.State, q.Level, q.Reason = "nobody", "bad", "nobody consumes it"
	case q.Braked > 0:
		q.State, q.Level, q.Reason = "braked", "warn", fmt.Sprintf("on %d of %s: %s", q.Braked, by, why())
	case q.Unwell > 0 || q.Quiet > 0:
		q.State, q.Level, q.Reason = "in part", "warn", fmt.Sprintf("%d of %s consume it. %s", q.Daemons-q.Unwell-q.Quiet, by, why())
	case q.Daemons == 0:
		q.State, q.Level, q.Reason = "others", "idle", "consumed by "+plural(s.Consumers, "consumer", "consumers")+" that are no daemons that answer"
	case q.InFlight > 0 || q.OutRate() > 0:
		q.State, q.Level, q.Reason = "working", "ok", "consumed by "+by
	default:
		q.State, q.Level, q.Reason = "idle", "ok", "consumed by "+by
	}
}

var levels = map[string]int{"bad": 0, "warn": 1, "idle": 2, "ok": 3}

// arrange leaves the queues that are asked for, in the order that is.
func (o *overview) arrange(q, by string) {
	o.Q, o.Sort = cut(q, 255), by
	if o.Q != "" {
		o.Queues = slices.DeleteFunc(o.Queues, func(r queueRow) bool {
			return !strings.Contains(strings.ToLower(r.Queue), strings.ToLower(o.Q)) && r.State != strings.ToLower(o.Q)
		})
	}
	key, down := strings.CutPrefix(by, "-")
	compare := map[string]func(a, b queueRow) int{
		"queue":   func(a, b queueRow) int { return strings.Compare(a.Queue, b.Queue) },
		"state":   func(a, b queueRow) int { return levels[a.Level] - levels[b.Level] },
		"ready":   func(a, b queueRow) int { return a.Ready - b.Ready },
		"in":      func(a, b queueRow) int { return cmp.Compare(a.InRate(), b.InRate()) },
		"out":     func(a, b queueRow) int { return cmp.Compare(a.OutRate(), b.OutRate()) },
		"flight":  func(a, b queueRow) int { return cmp.Compare(a.InFlight, b.InFlight) },
		"waiting": func(a, b queueRow) int { return a.Waiting - b.Waiting },
		"dead":    func(a, b queueRow) int { return a.Dead - b.Dead },
	}[key]
	if compare == nil { // what needs somebody stands first
		compare, down, o.Sort = func(a, b queueRow) int { return levels[a.Level]/2 - levels[b.Level]/2 }, false, ""
	}
	slices.SortStableFunc(o.Queues, func(a, b queueRow) int {
		if down {
			return compare(b, a)
		}
		return compare(a, b)
	})
}

// sortedColumn is the value of sort that a click on a column leads to: numbers begin with the
// largest.
func sortedColumn(c column, now string) string {
	first := c.Key
	if strings.HasPrefix(c.Class, "n") {
		first = "-" + c.Key
	}
	switch now {
	case first:
		if opposite, down := strings.CutPrefix(first, "-"); down {
			return opposite
		}
		return "-" + first
	}
	return first
}

func (p *Page) overview(w http.ResponseWriter, r *http.Request, s *session) {
	picture, leave := p.hub.look(false)
	defer leave()
	picture.wait(r.Context())
	o := p.hub.sees(picture, time.Now())
	query := r.URL.Query()
	o.arrange(query.Get("q"), query.Get("sort"))
	p.mark(&o)
	f := p.frame(s, "overview", "Overview", o)
	f.Live = p.link("live", "view", "overview", "q", o.Q, "sort", o.Sort)
	p.renderFrame(w, r, http.StatusOK, "overview", f)
}

// mark says which daemon serves the page.
func (p *Page) mark(o *overview) {
	for i, d := range o.Daemons {
		o.Daemons[i].Here = d.Host == fleet.Host() && d.PID == pid
	}
}

// spark is a line of the rates of the last minutes: what came in, and what is done.
func spark(in, out []float64) template.HTML {
	const width, height = 120, 24
	most := 1.0
	for _, v := range slices.Concat(in, out) {
		most = max(most, v)
	}
	line := func(class string, values []float64) string {
		if len(values) < 2 {
			return ""
		}
		var points strings.Builder
		var number []byte
		step := float64(width) / float64(samples-1)
		begin := float64(width) - step*float64(len(values)-1)
		for i, v := range values {
			number = strconv.AppendFloat(number[:0], begin+step*float64(i), 'f', 1, 64)
			number = append(number, ',')
			number = strconv.AppendFloat(number, float64(height-1)-v/most*(height-2), 'f', 1, 64)
			points.Write(append(number, ' '))
		}
		return fmt.Sprintf(`<polyline class="%s" points="%s"/>`, class, strings.TrimSpace(points.String()))
	}
	label := fmt.Sprintf("in %s a second, done %s a second, at most %s", perSecond(last(in)), perSecond(last(out)), perSecond(most))
	return template.HTML(fmt.Sprintf(`<svg class="spark" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s" preserveAspectRatio="none"><title>%s</title>%s%s</svg>`, //nolint:gosec // numbers
		width, height, width, height, label, label, line("in", in), line("out", out)))
}

// FlightInt is how many messages are in flight.
func (q queueRow) FlightInt() int { return int(q.InFlight) }

// FlightInt is how many messages are in flight.
func (d daemonRow) FlightInt() int { return int(d.InFlight) }
