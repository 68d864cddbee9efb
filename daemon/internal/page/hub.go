package page

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
)

const (
	// linger is how long the fleet is watched after the last one has looked: pages follow
	// each other.
	linger = 12 * time.Second
	// looksEvery is how often the broker is asked for the lengths of queues, if that takes
	// no longer than a twentieth of it, and daemons do not report less often.
	looksEvery = 4 * time.Second
	// frameEvery is how often something new is shown, unless daemons report less often.
	frameEvery = fleet.WatchEvery
	// reportsASecond is how many reports of queues are read at most, as long as daemons may be
	// asked to report less often, and closely is for how long after an act they are not.
	reportsASecond = 600
	closely        = 10 * time.Second
	// waitsEvery is how often it is found out which wait queues of a queue there are.
	waitsEvery = time.Minute
	// mostDiscovered is for how many queues that is found out in one look.
	mostDiscovered = 5
	// settled is how long no further daemon answers until the first picture is whole, and
	// firstPicture how long it may take.
	settled      = 250 * time.Millisecond
	firstPicture = 900 * time.Millisecond
	// maxQueues bounds what is remembered of queues that no daemon reports any more.
	maxQueues = 2000
	// remembered is for how long it is known how a queue has stood, and samples are so many
	// moments of that.
	remembered = 5 * time.Minute
	samples    = int(remembered / looksEvery)
	// fewAttempts are what daemons report of each queue while nobody looks into one, and
	// manyAttempts while somebody does.
	fewAttempts, fewFailures   = 2, 3
	manyAttempts, manyFailures = 50, 20
)

// A hub watches the fleet once for everybody who looks at it, from the first one's coming
// until a little after the last one's leaving.
type hub struct {
	ctx    context.Context // ends with the page
	dial   func(context.Context) (*fleet.Client, error)
	queues []string // those that this daemon works, in any case
	done   sync.WaitGroup

	mu       sync.Mutex
	watchers int
	deep     int                // of them look into a queue
	anew     chan struct{}      // daemons are to be asked at once
	stop     context.CancelFunc // nil: nobody is watched
	later    *time.Timer
	acted    time.Time // when refresh was called last
	picture  *picture
	known    map[string]bool // queues that there have been
}

// A picture is what has been seen since somebody began to look.
type picture struct {
	view  fleet.View
	began time.Time

	mu       sync.Mutex
	err      error // why there is nothing new
	client   *fleet.Client
	answered time.Time               // the last answer
	asked    int                     // so often daemons have been
	answers  int                     // since they were last
	looked   time.Time               // the last look at lengths
	states   map[string]queueLengths // by queue
	history  map[string]*history
}

// queueLengths are what the broker says of a queue.
type queueLengths struct {
	fleet.QueueState
	dead, waiting int
	waits         []string  // its wait queues
	waitsAt       time.Time // since when they are known
	retries       int64     // that there had been by then
	noDeadAt      time.Time // since when there are no dead letters to count
	seen          bool
}

func newHub(ctx context.Context, dial func(context.Context) (*fleet.Client, error), queues []string) *hub {
	return &hub{ctx: ctx, dial: dial, queues: queues, anew: make(chan struct{}, 1), known: make(map[string]bool)}
}

// look has the fleet watched until leave is called. deep is for who looks into a queue.
func (h *hub) look(deep bool) (p *picture, leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers++
	if deep {
		h.deep++
	}
	if h.later != nil {
		h.later.Stop()
		h.later = nil
	}
	if h.stop == nil {
		ctx, stop := context.WithCancel(h.ctx)
		h.stop = stop
		h.picture = &picture{began: time.Now(), states: make(map[string]queueLengths), history: make(map[string]*history)}
		picture := h.picture
		h.done.Go(func() { h.watch(ctx, picture) })
	}
	return h.picture, sync.OnceFunc(func() { h.leave(deep) })
}

// refresh has the daemons asked anew, if they are watched, and waits until as many have answered
// as were there, or no longer than a person would: what an act has changed is seen then. It
// tells whether they have.
func (h *hub) refresh(ctx context.Context) bool {
	h.mu.Lock()
	p := h.picture
	if h.stop == nil {
		h.mu.Unlock()
		return false
	}
	p.mu.Lock()
	asked, want := p.asked, len(p.view.Answers(time.Now()))
	p.mu.Unlock()
	h.acted = time.Now()
	select {
	case h.anew <- struct{}{}:
	default:
	}
	h.mu.Unlock()
	late := time.After(firstPicture)
	for {
		p.mu.Lock()
		all := p.asked > asked && p.answers >= want
		p.mu.Unlock()
		if all {
			return true
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-late:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (h *hub) leave(deep bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers--
	if deep {
		h.deep--
	}
	if h.watchers > 0 || h.later != nil {
		return
	}
	h.later = time.AfterFunc(linger, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.watchers == 0 && h.stop != nil {
			h.stop()
			h.stop, h.later = nil, nil
		}
	})
}

// close waits for what the hub has begun. Its context must have ended.
func (h *hub) close() {
	h.mu.Lock()
	if h.later != nil {
		h.later.Stop()
	}
	h.mu.Unlock()
	h.done.Wait()
}

func (h *hub) isDeep() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.deep > 0
}

// watch fills the picture, over one connection after the other, until ctx ends.
func (h *hub) watch(ctx context.Context, p *picture) {
	for ctx.Err() == nil {
		err := h.watchOnce(ctx, p)
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		p.err, p.client = err, nil
		p.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(frameEvery):
		}
	}
}

// watchOnce watches over one connection, until that is lost.
func (h *hub) watchOnce(ctx context.Context, p *picture) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	late := time.AfterFunc(quickly/2, func() { stop(errors.New("the broker does not answer")) })
	c, err := h.dial(ctx)
	late.Stop()
	if err != nil {
		if context.Cause(ctx) != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	defer c.Close()
	p.mu.Lock()
	p.client = c
	p.mu.Unlock()
	var looking sync.WaitGroup
	defer looking.Wait()
	defer stop(nil)
	looking.Go(func() { h.lengths(ctx, p, c) })
	for {
		every, deep := h.every(p, time.Now()), h.isDeep()
		request := fleet.Request{EveryMillis: every.Milliseconds(), Attempts: fewAttempts, Failures: fewFailures}
		if deep {
			request.Attempts, request.Failures = manyAttempts, manyFailures
		}
		p.mu.Lock()
		p.asked, p.answers = p.asked+1, 0
		p.mu.Unlock()
		asking, again := context.WithCancelCause(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for h.every(p, time.Now()) == every && h.isDeep() == deep {
				select {
				case <-time.After(fleet.WatchEvery):
					continue
				case <-h.anew:
				case <-asking.Done():
				}
				break
			}
			again(errAskAnew)
		}()
		err := c.Watch(asking, request, func(a fleet.Answer) { p.add(a, time.Now(), every) })
		again(nil)
		<-ended
		switch {
		case errors.Is(err, errAskAnew):
		case errors.Is(err, fleet.ErrNobody): // lengths are known all the same
			p.mu.Lock()
			p.err = err
			p.mu.Unlock()
			select {
			case <-time.After(frameEvery):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		default:
			return err
		}
	}
}

var errAskAnew = errors.New("ask for something else")

// every is how often daemons are asked to report: less often the more there is to read, but
// not at first, when rates are not known yet, nor after an act, which is to be seen.
func (h *hub) every(p *picture, now time.Time) time.Duration {
	h.mu.Lock()
	acted := h.acted
	h.mu.Unlock()
	every := fleet.WatchEvery
	if now.Sub(acted) < closely || now.Sub(p.began) < every {
		return every
	}
	reports := 0
	for _, a := range p.view.Answers(now) {
		reports += len(a.Status.Queues)
	}
	for every < fleet.MaxWatchEvery && float64(reports) > reportsASecond*every.Seconds() {
		every += fleet.WatchEvery
	}
	return every
}

func (p *picture) add(a fleet.Answer, now time.Time, every time.Duration) {
	p.view.Add(a, now, every)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered, p.err = now, nil
	p.answers++
}

// lengths asks for the lengths of queues again and again, until ctx ends.
func (h *hub) lengths(ctx context.Context, p *picture, c *fleet.Client) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	var begun time.Time
	for {
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		if time.Since(begun) < h.every(p, time.Now())-looksEvery/2 { // there is little new before
			wait.Reset(looksEvery)
			continue
		}
		begun = time.Now()
		names, counts := h.names(p), p.counts()
		p.lookAt(ctx, c, names, counts)
		p.mu.Lock()
		p.looked = time.Now()
		p.mu.Unlock()
		next := max(looksEvery, 20*time.Since(begun))
		if len(names) == 0 || begun.Sub(p.began) < firstPicture { // daemons are still answering
			next = settled
		}
		wait.Reset(next)
	}
}

// lookAt asks for the lengths of queues, and of what belongs to them.
func (p *picture) lookAt(ctx context.Context, c *fleet.Client, names []string, all map[string]counts) {
	now := time.Now()
	states := make([]queueLengths, len(names))
	var ask []string
	p.mu.Lock()
	for i, name := range names {
		s := p.states[name]
		states[i] = s
		if ask = append(ask, name); now.Sub(s.noDeadAt) > waitsEvery {
			ask = append(ask, name+".dead")
		}
		ask = append(ask, s.waits...)
	}
	p.mu.Unlock()
	type length struct {
		messages, consumers int
		there               bool
	}
	found := make(map[string]length, len(ask))
	err := c.Counts(ask, func(queue string, messages, consumers int, there bool) {
		found[queue] = length{messages, consumers, there}
	})
	if err != nil {
		return // the connection is lost, as whoever watches will say
	}
	discover := mostDiscovered
	for i, name := range names {
		if ctx.Err() != nil {
			return
		}
		s, n := &states[i], all[name]
		it, dead := found[name], found[name+".dead"]
		s.Queue, s.Messages, s.Consumers, s.Missing, s.Paused = name, it.messages, it.consumers, !it.there, nil
		if s.dead = dead.messages; !dead.there && now.Sub(s.noDeadAt) > waitsEvery {
			s.noDeadAt = now
		}
		if s.Consumers == 0 && n.daemons == 0 { // nobody else would say so
			s.Paused, _ = c.Paused(ctx, name)
		}
		s.waiting = 0
		for _, wait := range s.waits {
			s.waiting += found[wait].messages
		}
		// Finding out takes long, and is not for the first look. Most queues have none until
		// an attempt fails.
		since := now.Sub(s.waitsAt)
		if s.seen && discover > 0 && (since > waitsEvery && n.retries != s.retries || since > 10*waitsEvery) {
			if waits, err := c.Waits(name); err == nil {
				s.waits, s.waitsAt, s.retries = waits, now, n.retries
			}
			discover--
		}
		s.seen = true
	}
	now = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, name := range names {
		s := states[i]
		p.states[name] = s
		h := p.history[name]
		if h == nil {
			h = new(history)
			p.history[name] = h
		}
		h.add(sample{now, s.Messages, s.Messages + s.waiting + int(all[name].inFlight), all[name]})
	}
}

// counts are what daemons have done with a queue since those that report have begun.
type counts struct {
	daemons               int
	inFlight, ended, left int64 // attempts that have ended, and messages that have left for good
	retries               int64 // attempts that were not the last
}

func (p *picture) counts() map[string]counts {
	all := make(map[string]counts)
	for _, a := range p.view.Answers(time.Now()) {
		for _, q := range a.Status.Queues {
			c := all[q.Queue]
			c.daemons++
			c.inFlight += q.InFlight
			for verdict, n := range q.Counts {
				c.ended += n
				switch verdict {
				case "ack", "dead":
					c.left += n
				case "retry":
					c.retries += n
				}
			}
			all[q.Queue] = c
		}
	}
	return all
}

// names are the queues that there are or have been, in their order.
func (h *hub) names(p *picture) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range h.queues {
		h.known[name] = true
	}
	for _, q := range p.view.Queues() {
		if len(h.known) < maxQueues {
			h.known[q.Queue] = true
		}
	}
	return slices.SortedFunc(maps.Keys(h.known), strings.Compare)
}

// wait waits until the first picture is whole, or ctx ends.
func (p *picture) wait(ctx context.Context) {
	for {
		p.mu.Lock()
		now := time.Now()
		whole := !p.looked.IsZero() && !p.answered.IsZero() && now.Sub(p.began) > settled && p.looked.Sub(p.answered) > -frameEvery && len(p.states) > 0
		over := now.Sub(p.began) > firstPicture || p.err != nil && now.Sub(p.began) > settled
		p.mu.Unlock()
		if whole || over || ctx.Err() != nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// A history is how a queue has stood at the last looks.
type history struct {
	samples []sample
	in, out []float64 // messages a second, every looksEvery
}

type sample struct {
	at    time.Time
	ready int
	held  int // ready, waiting and in flight
	counts
}

func (h *history) add(s sample) {
	if n := len(h.samples); n > 0 {
		before := h.samples[n-1]
		passed := s.at.Sub(before.at).Seconds()
		if passed < looksEvery.Seconds()/8 {
			return
		}
		if s.daemons != before.daemons { // what the others have done is not of this moment
			h.samples[n-1] = s
			return
		}
		out := float64(max(0, s.left-before.left)) // a daemon that is gone takes its count along
		in := max(0, out+float64(s.held-before.held))
		for range max(1, int(math.Round(passed/looksEvery.Seconds()))) { // one for each look that there might have been
			h.in, h.out = append(h.in, in/passed), append(h.out, out/passed)
		}
		h.in, h.out = h.in[max(0, len(h.in)-samples+1):], h.out[max(0, len(h.out)-samples+1):]
	}
	h.samples = append(h.samples, s)
	for s.at.Sub(h.samples[0].at) > remembered {
		h.samples = h.samples[1:]
	}
}

// oldest is for how long the message that is next has waited, as far as the history says:
// since so many were ready as have been taken since. atLeast is true if the history is shorter
// than that.
func (h *history) oldest(now time.Time) (age time.Duration, atLeast, known bool) {
	n := len(h.samples)
	if n == 0 || h.samples[n-1].ready == 0 {
		return 0, false, false
	}
	taken := func(s sample) int64 { return s.ended + s.inFlight }
	for i := n - 1; i >= 0; i-- {
		if taken(h.samples[n-1])-taken(h.samples[i]) >= int64(h.samples[i].ready) {
			return now.Sub(h.samples[i].at), false, true
		}
	}
	return now.Sub(h.samples[0].at), true, true
}

// last is the mean of the last few values.
func last(values []float64) float64 {
	few := values[max(0, len(values)-3):]
	if len(few) == 0 {
		return 0
	}
	var sum float64
	for _, v := range few {
		sum += v
	}
	return sum / float64(len(few))
}
