package page

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/operator"
)

const (
	// shownAttempts and shownFailures are how many of a queue are listed.
	shownAttempts = 100
	shownFailures = 50
	// shownWaits is how many messages that wait the view of a queue lists, and listedWaits
	// how many the list of them does.
	shownWaits  = 20
	listedWaits = 200
	// answersWithin is how long a daemon may take to do what it is asked, and obeyedWithin how
	// long all may take to leave a queue, or to come back.
	answersWithin = 8 * time.Second
	obeyedWithin  = 3 * time.Second
	// maxPause is the longest pause that ends by itself.
	maxPause = 30 * 24 * time.Hour
)

// A queueView is one queue.
type queueView struct {
	queueRow
	At       time.Time
	Err      string
	There    bool // some daemon works it, or the broker knows it
	Attempts []attemptRow
	Unseen   int // in flight, and not listed
	Failures []failureRow
	Daemons  []daemonQueue
	Settings []string // of this daemon's
	Mine     bool     // this daemon works it
}

type attemptRow struct {
	fleet.AttemptOf
	Param    string
	TraceURL string
}

func (p *Page) attemptRow(a fleet.AttemptOf) attemptRow {
	return attemptRow{a, idParam(a.MessageID), p.traceURL(a.TraceID)}
}

type failureRow struct {
	fleet.FailureOf
	Param string
}

// A daemonQueue is how a queue stands with one daemon.
type daemonQueue struct {
	Name string
	fleet.QueueStatus
	Quiet bool
}

// FlightInt is how many messages are in flight.
func (d daemonQueue) FlightInt() int { return int(d.InFlight) }

// queueView makes the view of a queue.
func (p *Page) queueView(picture *picture, queue string, now time.Time) queueView {
	o := p.hub.sees(picture, now)
	v := queueView{At: o.At, Err: o.Err, queueRow: queueRow{Queue: queue, State: "unknown", Level: "idle", Reason: "no daemon that answers works a queue of this name"}}
	for _, q := range o.Queues {
		if q.Queue == queue {
			v.queueRow, v.There = q, true
		}
	}
	for _, d := range o.Daemons {
		for _, q := range d.Status.Queues {
			if q.Queue == queue {
				v.Daemons = append(v.Daemons, daemonQueue{d.Name, q, d.Status.Quiet != nil})
			}
		}
	}
	for _, a := range picture.view.Attempts(1 << 20) {
		if a.Queue == queue && len(v.Attempts) < shownAttempts {
			v.Attempts = append(v.Attempts, p.attemptRow(a))
		}
	}
	v.Unseen = max(0, int(v.InFlight)-len(v.Attempts))
	for _, f := range picture.view.Failures(1 << 20) {
		if f.Queue == queue && len(v.Failures) < shownFailures {
			v.Failures = append(v.Failures, failureRow{f, idParam(f.MessageID)})
		}
	}
	v.Settings, v.Mine = p.cfg.Settings[queue]
	return v
}

type waitsData struct {
	pick
	operator.WaitingList
	Rows []waitRow
	Over int // found, and not listed
	Err  error
}

type waitRow struct {
	operator.WaitingMessage
	Param string
}

func (p *Page) queue(w http.ResponseWriter, r *http.Request, s *session) {
	which, err := picked(r.URL.Query(), operator.LetterFields)
	if err != nil {
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	f := p.frame(s, "queue", which.Queue, nil)
	f.Live = p.link("live", "view", "queue", "queue", which.Queue)
	out := p.begin(w, r, f)
	shallow := !p.hub.isDeep()
	picture, leave := p.hub.look(true)
	defer leave()
	if picture.wait(r.Context()); shallow { // daemons have said little of each queue
		p.hub.refresh(r.Context())
	}
	out.send("queue", p.queueView(picture, which.Queue, time.Now()))
	out.send("queue-waits", p.waits(r, which, shownWaits))
	out.send("bottom", nil)
}

// waits lists what waits for a queue, the next due first.
func (p *Page) waits(r *http.Request, which pick, most int) waitsData {
	data := waitsData{pick: which}
	b, err := p.broker()
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), quickly)
		defer cancel()
		look := listedWaits
		if which.filter != nil || len(which.IDs) > 0 {
			look = 0 // or the filter would be of the first ones only
		}
		selected := which.selection()
		selected.Most = most
		data.WaitingList, err = b.Waiting(ctx, []string{which.Queue}, selected, look)
		err = explained(ctx, err)
	}
	data.Err = err
	data.Over = data.Matched - len(data.Messages)
	for _, m := range data.Messages {
		m.Error = cut(m.Error, 400)
		data.Rows = append(data.Rows, waitRow{m, idParam(m.MessageID)})
	}
	return data
}

func (p *Page) waiting(w http.ResponseWriter, r *http.Request, s *session) {
	which, err := picked(r.URL.Query(), operator.WaitingFields)
	f := p.frame(s, "queue-waiting", "Waiting for "+which.Queue, waitsData{pick: which})
	if err != nil {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusBadRequest)
	}
	out := p.begin(w, r, f)
	out.send("waiting-top", nil)
	if err != nil {
		out.send("dead-wrong", problem{Err: err})
	} else {
		out.send("waiting-list", p.waits(r, which, listedWaits))
	}
	out.send("bottom", nil)
}

func (p *Page) release(w http.ResponseWriter, r *http.Request, s *session) {
	p.actOnWaits(w, r, s, "release", operate, operator.Broker.Release)
}

func (p *Page) drop(w http.ResponseWriter, r *http.Request, s *session) {
	p.actOnWaits(w, r, s, "drop", admin, operator.Broker.Drop)
}

// actOnWaits begins a job on what waits.
func (p *Page) actOnWaits(w http.ResponseWriter, r *http.Request, s *session, act string, least role,
	do func(operator.Broker, context.Context, string, operator.Selection, func(operator.Done)) (operator.Done, error),
) {
	which, err := picked(r.PostForm, operator.WaitingFields)
	if err == nil {
		err = which.meant()
	}
	if err != nil {
		p.audit(r, s, act, "failed: "+err.Error())
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	j := &job{Act: act, Queue: which.Queue, What: which.words() + ", of what waits", Filter: which.Filter, least: least}
	err = p.start(j, s, func(ctx context.Context, j *job) (operator.Done, error) {
		b, err := p.broker()
		if err != nil {
			return operator.Done{}, err
		}
		return do(b, ctx, which.Queue, which.selection(), j.progress)
	})
	p.began(w, r, s, j, err)
}

// steer asks something of the fleet, and goes back to where that was asked, with what came of
// it.
func (p *Page) steer(w http.ResponseWriter, r *http.Request, s *session, act, back string, do func(context.Context, *fleet.Client) (string, error)) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), quickly, errors.New("the broker does not answer"))
	defer cancel()
	text := ""
	c, err := p.dial(ctx)
	if err == nil {
		text, err = do(ctx, c)
		c.Close()
	}
	if err = explained(ctx, err); err != nil {
		p.audit(r, s, act, "failed: "+err.Error())
		p.fail(w, r, s, http.StatusBadGateway, fmt.Errorf("%s: %w", act, err))
		return
	}
	p.audit(r, s, act, "allowed: "+text)
	p.sessions.note(s, text)
	p.hub.refresh(ctx)
	http.Redirect(w, r, back, http.StatusSeeOther)
}

// why is the reason that was given for an act.
func why(r *http.Request) (string, error) {
	text := strings.TrimSpace(r.PostForm.Get("why"))
	if len(text) > 300 || !utf8.ValidString(text) {
		return "", errors.New("the reason may have 300 bytes")
	}
	return text, nil
}

func (p *Page) pause(w http.ResponseWriter, r *http.Request, s *session) {
	which, err := picked(r.PostForm, operator.LetterFields)
	reason, whyErr := why(r)
	var lasts time.Duration
	if text := strings.TrimSpace(r.PostForm.Get("for")); text != "" && err == nil {
		if lasts, err = time.ParseDuration(text); err != nil || lasts < time.Second || lasts > maxPause {
			err = fmt.Errorf("the time is %.20q; it must be one such as 15m or 4h, up to 720h", text)
		}
	}
	if err = errors.Join(err, whyErr); err != nil {
		p.audit(r, s, "pause", "failed: "+err.Error())
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	p.steer(w, r, s, "pause", p.link("queue", "queue", which.Queue), func(ctx context.Context, c *fleet.Client) (string, error) {
		if _, _, err := c.Count(which.Queue); err != nil {
			return "", err
		}
		if err := c.Pause(ctx, which.Queue, reason, lasts); err != nil {
			return "", err
		}
		_, consumers, err := await(ctx, c, which.Queue, func(consumers int) bool { return consumers == 0 })
		if err != nil {
			return "", err
		}
		if consumers > 0 { // the broker counts those that have left with messages in flight
			return fmt.Sprintf("%s is paused; %s yet: they finish what is in flight, or are no daemons that obey", which.Queue, plural(consumers, "consumer is there", "consumers are there")), nil
		}
		return which.Queue + " is paused, and nobody takes messages", nil
	})
}

func (p *Page) resume(w http.ResponseWriter, r *http.Request, s *session) {
	which, err := picked(r.PostForm, operator.LetterFields)
	if err != nil {
		p.audit(r, s, "resume", "failed: "+err.Error())
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	p.steer(w, r, s, "resume", p.link("queue", "queue", which.Queue), func(ctx context.Context, c *fleet.Client) (string, error) {
		if err := c.Resume(ctx, which.Queue); err != nil {
			return "", err
		}
		_, consumers, err := await(ctx, c, which.Queue, func(consumers int) bool { return consumers > 0 })
		if err != nil && !errors.Is(err, fleet.ErrNoQueue) {
			return "", err
		}
		return fmt.Sprintf("%s is resumed, with %s", which.Queue, plural(consumers, "consumer", "consumers")), nil
	})
}

// await waits until a queue has as many consumers as it should, or no longer.
func await(ctx context.Context, c *fleet.Client, queue string, enough func(consumers int) bool) (messages, consumers int, err error) {
	late := time.After(obeyedWithin)
	for {
		if messages, consumers, err = c.Count(queue); err != nil || enough(consumers) {
			return messages, consumers, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-late:
			return messages, consumers, nil
		case <-ctx.Done():
			return messages, consumers, context.Cause(ctx)
		}
	}
}

func (p *Page) cancelAttempt(w http.ResponseWriter, r *http.Request, s *session) {
	which, err := picked(r.PostForm, operator.LetterFields)
	reason, whyErr := why(r)
	daemon := r.PostForm.Get("daemon")
	if err = errors.Join(err, whyErr); err == nil && (len(which.IDs) != 1 || which.IDs[0] == "" || daemon == "" || len(daemon) > 300) {
		err = errors.New("name one message and its daemon")
	}
	if err != nil {
		p.audit(r, s, "cancel", "failed: "+err.Error())
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	id := which.IDs[0]
	request := fleet.Request{Verb: fleet.VerbCancel, MessageID: id, Queue: which.Queue, Daemons: []string{daemon}, Why: reason}
	p.steer(w, r, s, "cancel", p.link("queue", "queue", which.Queue), func(ctx context.Context, c *fleet.Client) (string, error) {
		done, err := asked(ctx, c, request, daemon)
		switch {
		case err != nil:
			return "", err
		case done == 0:
			return id + " is not in flight any more", nil
		}
		return id + " is cancelled; if the attempt fails now, the message is a dead letter with the reason cancelled", nil
	})
}

// asked has one daemon do something, and returns how many messages or daemons that was about.
func asked(ctx context.Context, c *fleet.Client, request fleet.Request, daemon string) (int, error) {
	answers, err := c.Ask(ctx, request, 1, answersWithin)
	switch {
	case err != nil:
		return 0, err
	case len(answers) == 0:
		return 0, fmt.Errorf("%s does not answer", daemon)
	case answers[0].Error != "":
		return 0, errors.New(answers[0].Error)
	}
	return answers[0].Done, nil
}

func (p *Page) quiet(w http.ResponseWriter, r *http.Request, s *session) {
	p.steerDaemon(w, r, s, "quiet", fleet.VerbQuiet, "takes no messages until it is told to work")
}

func (p *Page) work(w http.ResponseWriter, r *http.Request, s *session) {
	p.steerDaemon(w, r, s, "work", fleet.VerbWork, "takes messages again")
}

func (p *Page) steerDaemon(w http.ResponseWriter, r *http.Request, s *session, act, verb, done string) {
	reason, err := why(r)
	daemon := r.PostForm.Get("daemon")
	if err == nil && (daemon == "" || len(daemon) > 300) {
		err = errors.New("no daemon is named")
	}
	if err != nil {
		p.audit(r, s, act, "failed: "+err.Error())
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	p.steer(w, r, s, act, p.link("")+"#daemons", func(ctx context.Context, c *fleet.Client) (string, error) {
		_, err := asked(ctx, c, fleet.Request{Verb: verb, Daemons: []string{daemon}, Why: reason}, daemon)
		return daemon + " " + done, err
	})
}
