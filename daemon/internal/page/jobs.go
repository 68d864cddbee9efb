package page

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warrenmq/warren/consumer/operator"
)

const (
	// maxJobs is how many are remembered, and maxRunning how many run at once.
	maxJobs    = 200
	maxRunning = 8
)

// A job acts on messages of a queue, whether or not somebody looks.
type job struct {
	ID, Act, Queue string
	What           string // which messages, in words
	Filter         string
	By             string
	Role           role
	Began          time.Time
	least          role // may cancel it

	stop context.CancelCauseFunc
	done chan struct{} // is closed when it has ended

	mu      sync.Mutex
	phase   string // what it is at
	ended   time.Time
	did     operator.Done
	outcome string // what it has come to
	level   string // ok, warn or bad
	archive string
}

// A jobView is how a job stands.
type jobView struct {
	ID, Act, Queue, What, Filter, By string
	Began, Ended                     time.Time
	Phase, Outcome, Level, Archive   string
	Done                             operator.Done
	Running, MayCancel               bool
	PerSecond                        float64
}

var acted = map[string]string{"replay": "replayed", "discard": "discarded", "release": "released", "drop": "dropped"}

// Did is the act, as it is said of what was done.
func (v jobView) Did() string { return acted[v.Act] }

func (j *job) view(who role) jobView {
	j.mu.Lock()
	defer j.mu.Unlock()
	v := jobView{
		ID: j.ID, Act: j.Act, Queue: j.Queue, What: j.What, Filter: j.Filter, By: j.By, Began: j.Began, Ended: j.ended, Phase: j.phase, Outcome: j.outcome, Level: j.level,
		Archive: j.archive, Done: j.did, Running: j.ended.IsZero(),
	}
	v.MayCancel = v.Running && who >= j.least
	until := j.ended
	if v.Running {
		until = time.Now()
	}
	if took := until.Sub(j.Began).Seconds(); took > 0 {
		v.PerSecond = float64(j.did.Done) / took
	}
	return v
}

func (j *job) progress(d operator.Done) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.did = d
}

func (j *job) say(phase string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.phase = phase
}

// jobs are those of this daemon, since its start.
type jobs struct {
	ctx     context.Context
	running chan struct{}
	done    sync.WaitGroup

	mu  sync.Mutex
	all []*job // the oldest first
}

func newJobs(ctx context.Context) *jobs {
	return &jobs{ctx: ctx, running: make(chan struct{}, maxRunning)}
}

func (t *jobs) close() { t.done.Wait() }

var (
	errCancelled = errors.New("cancelled")
	errTooMany   = errors.New("too many jobs are under way; wait until one has ended")
)

// start begins a job. run does it, and returns how far it has come.
func (p *Page) start(j *job, s *session, run func(context.Context, *job) (operator.Done, error)) error {
	select {
	case p.jobs.running <- struct{}{}:
	default:
		return errTooMany
	}
	ctx, stop := context.WithCancelCause(p.ctx)
	j.ID, j.Began, j.Role, j.By, j.stop, j.done = strings.ToLower(rand.Text()[:10]), time.Now(), s.role, s.name, stop, make(chan struct{})
	if j.By == "" {
		j.By = s.role.String()
	}
	p.jobs.mu.Lock()
	if i := slices.IndexFunc(p.jobs.all, func(j *job) bool { return !j.view(nobody).Running }); len(p.jobs.all) >= maxJobs && i >= 0 {
		p.jobs.all = slices.Delete(p.jobs.all, i, i+1)
	}
	p.jobs.all = append(p.jobs.all, j)
	p.jobs.mu.Unlock()
	p.jobs.done.Go(func() {
		defer func() { <-p.jobs.running }()
		defer stop(nil)
		defer close(j.done)
		j.say("waits for its turn at the queue")
		release, err := p.looks.hold(ctx, j.Queue)
		var done operator.Done
		if err == nil {
			j.say("")
			done, err = run(ctx, j)
			release()
		}
		p.ended(ctx, j, done, err)
	})
	return nil
}

// ended writes down what a job has come to.
func (p *Page) ended(ctx context.Context, j *job, done operator.Done, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.did, j.ended, j.phase = done, time.Now(), ""
	j.level = "ok"
	j.outcome = fmt.Sprintf("%s %s of %s", acted[j.Act], plural(done.Done, "message", "messages"), j.Queue)
	switch {
	case errors.Is(context.Cause(ctx), errCancelled):
		j.level, j.outcome = "warn", j.outcome+"; then it was cancelled, and the rest is left"
	case p.ctx.Err() != nil && err != nil:
		j.level, j.outcome = "warn", j.outcome+"; then the daemon was stopped, and the rest is left"
	case err != nil:
		j.level, j.outcome = "bad", fmt.Sprintf("%s; then: %v; the rest is left", j.outcome, err)
	case done.Left > 0:
		j.level, j.outcome = "warn", fmt.Sprintf("%s; %s cannot be published: %v", j.outcome, plural(done.Left, "was left, since it", "were left, since they"), done.Why)
	case done.Done == 0:
		j.level, j.outcome = "warn", j.outcome+": none was found that is meant"
	}
	p.log.Info("job of the page has ended", "act", j.Act, "outcome", j.outcome, "role", j.Role.String(), "name", j.By, "queue", j.Queue, "filter", cut(j.Filter, 300),
		"count", done.Done, "job", j.ID, "archive", j.archive)
}

func (t *jobs) find(id string) *job {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.IndexFunc(t.all, func(j *job) bool { return j.ID == id }); i >= 0 {
		return t.all[i]
	}
	return nil
}

// on is a job at a queue that has not ended; nil: there is none.
func (t *jobs) on(queue string) *job {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, j := range t.all {
		if j.Queue == queue && j.view(nobody).Running {
			return j
		}
	}
	return nil
}

// views are how all of them stand, the newest first.
func (t *jobs) views(who role) []jobView {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]jobView, len(t.all))
	for i, j := range t.all {
		out[len(t.all)-1-i] = j.view(who)
	}
	return out
}

// began answers with the job, once it has ended or a moment has passed.
func (p *Page) began(w http.ResponseWriter, r *http.Request, s *session, j *job, err error) {
	if err != nil {
		p.audit(r, s, j.Act, "failed: "+err.Error())
		p.fail(w, r, s, http.StatusServiceUnavailable, err)
		return
	}
	p.audit(r, s, j.Act, "allowed", "job", j.ID)
	select {
	case <-j.done:
	case <-time.After(700 * time.Millisecond):
	case <-r.Context().Done():
	}
	http.Redirect(w, r, p.link("job", "id", j.ID), http.StatusSeeOther)
}

type jobsData struct {
	Jobs     []jobView
	Archives []archive
	Folder   string
}

func (p *Page) showJobs(w http.ResponseWriter, r *http.Request, s *session) {
	f := p.frame(s, "jobs", "Jobs", p.jobsData(s))
	f.Live = p.link("live", "view", "jobs")
	p.renderFrame(w, r, http.StatusOK, "jobs", f)
}

func (p *Page) jobsData(s *session) jobsData {
	archives := p.archives()
	return jobsData{p.jobs.views(s.role), archives[:min(len(archives), 100)], p.cfg.Archives}
}

func (p *Page) showJob(w http.ResponseWriter, r *http.Request, s *session) {
	j := p.jobs.find(r.FormValue("id"))
	if j == nil {
		p.fail(w, r, s, http.StatusNotFound, errors.New("there is no such job: the daemon remembers the last ones until it is stopped. What was done is in its log"))
		return
	}
	view := j.view(s.role)
	f := p.frame(s, "jobs-one", "Job: "+view.Act+" of "+view.Queue, view)
	if view.Running {
		f.Live, f.Refresh = p.link("live", "view", "job", "id", j.ID), true
	}
	p.renderFrame(w, r, http.StatusOK, "job", f)
}

func (p *Page) cancelJob(w http.ResponseWriter, r *http.Request, s *session) {
	j := p.jobs.find(r.FormValue("id"))
	switch {
	case j == nil:
		p.fail(w, r, s, http.StatusNotFound, errors.New("there is no such job"))
		return
	case s.role < j.least:
		p.audit(r, s, "cancel job", "denied: takes the role "+j.least.String(), "job", j.ID)
		p.fail(w, r, s, http.StatusForbidden, fmt.Errorf("to cancel this takes the role %s", j.least))
		return
	}
	j.stop(errCancelled)
	p.audit(r, s, "cancel job", "allowed", "job", j.ID)
	select {
	case <-j.done:
	case <-time.After(time.Second):
	}
	http.Redirect(w, r, p.link("job", "id", j.ID), http.StatusSeeOther)
}
