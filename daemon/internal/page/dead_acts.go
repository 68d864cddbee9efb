package page

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer/operator"
)

const (
	// maxEdit is the longest body that can be edited.
	maxEdit = 512 << 10
	// typedFrom is how many messages have to be confirmed by typing the name of their queue.
	typedFrom = 100
	// A canary is seen after for so long, at least, at most, and if nothing is said.
	leastWatch = 2 * time.Second
	mostWatch  = 10 * time.Minute
	usualWatch = 30 * time.Second
)

// A dryRun says what an act would be about.
type dryRun struct {
	pick
	Act     string
	Params  []string // of ids
	Counts  []reasonCount
	Sample  []letterRow
	Oldest  time.Time
	Matched int
	Bytes   int
	Err     error
	Typed   bool // the name of the queue has to be typed
	Warn    string
	Archive string
}

type reasonCount struct {
	Reason string
	Count  int
}

func (p *Page) replayDryRun(w http.ResponseWriter, r *http.Request, s *session) {
	p.dryRun(w, r, s, "replay")
}

func (p *Page) discardDryRun(w http.ResponseWriter, r *http.Request, s *session) {
	p.dryRun(w, r, s, "discard")
}

// dryRun counts what an act would be about, and asks.
func (p *Page) dryRun(w http.ResponseWriter, r *http.Request, s *session, act string) {
	which, err := picked(r.URL.Query(), operator.LetterFields)
	if err == nil {
		err = which.meant()
	}
	if err != nil {
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	title := map[string]string{"replay": "Replay dead letters of ", "discard": "Discard dead letters of "}[act] + which.Queue
	data := dryRun{pick: which, Act: act, Archive: p.cfg.Archives}
	out := p.begin(w, r, p.frame(s, "dead-"+act, title, data))
	out.send("dry-top", nil)
	reasons := make(map[string]int)
	data.Err = p.looking(r, which.Queue, func(b operator.Broker) error {
		looked, err := b.Letters(r.Context(), which.Queue, which.selection(), func(l *operator.Letter) error {
			reason := cut(l.Reason, 200)
			if _, there := reasons[reason]; !there && len(reasons) >= 50 {
				reason = "other reasons"
			}
			reasons[reason]++
			data.Bytes += l.Size
			if !l.DeadAt.IsZero() && (data.Oldest.IsZero() || l.DeadAt.Before(data.Oldest)) {
				data.Oldest = l.DeadAt
			}
			if len(data.Sample) < 5 {
				data.Sample = append(data.Sample, letterRow{Letter: operator.Letter{ID: strings.Clone(l.ID), Reason: cut(l.Reason, 100), Error: cut(l.Error, 300), DeadAt: l.DeadAt}, Param: idParam(l.ID)})
			}
			return nil
		})
		data.Matched, data.Warn = looked.Matched, warning(which.Queue, looked)
		return err
	})
	for reason, n := range reasons {
		data.Counts = append(data.Counts, reasonCount{reason, n})
	}
	slices.SortFunc(data.Counts, func(a, b reasonCount) int {
		return cmp.Or(b.Count-a.Count, strings.Compare(a.Reason, b.Reason))
	})
	for _, id := range which.IDs {
		data.Params = append(data.Params, idParam(id))
	}
	data.Typed = act == "discard" && data.Matched > typedFrom
	out.send("dry-"+act, data)
	out.send("bottom", nil)
}

// replay begins a job that puts dead letters back.
func (p *Page) replay(w http.ResponseWriter, r *http.Request, s *session) {
	which, err := picked(r.PostForm, operator.LetterFields)
	if err == nil {
		err = which.meant()
	}
	var options operator.ReplayOptions
	if text := strings.TrimSpace(r.PostForm.Get("rate")); err == nil && text != "" {
		options.Rate, err = strconv.ParseFloat(text, 64)
		if err != nil || !(options.Rate > 0 && options.Rate <= 1e6) { // NaN is neither
			err = fmt.Errorf("the rate is %.20q; it must be a number more than 0", text)
		}
	}
	canary, canaryErr := whole(r.PostForm, "canary", 1, 10_000)
	seconds, watchErr := whole(r.PostForm, "watch", int(leastWatch.Seconds()), int(mostWatch.Seconds()))
	err = cmp.Or(err, canaryErr, watchErr)
	options.To = strings.TrimSpace(r.PostForm.Get("to"))
	switch {
	case err != nil:
	case len(options.To) > 255:
		err = errors.New("the name of the other queue is too long to be one")
	case options.To != "" && canary > 0:
		err = errors.New("canaries are watched in the queue that they came from; leave out the other queue, or them")
	case options.To != "" && s.role < admin:
		p.audit(r, s, "replay", "denied: another queue takes the role admin")
		p.fail(w, r, s, http.StatusForbidden, errors.New("to replay into another queue takes the role admin; nothing was done"))
		return
	}
	if err != nil {
		p.audit(r, s, "replay", "failed: "+err.Error())
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	watch := cmp.Or(time.Duration(seconds)*time.Second, usualWatch)
	j := &job{Act: "replay", Queue: which.Queue, What: which.words(), Filter: which.Filter, least: operate}
	err = p.start(j, s, func(ctx context.Context, j *job) (operator.Done, error) {
		b, err := p.broker()
		if err != nil {
			return operator.Done{}, err
		}
		return replayed(ctx, b, j, which, options, canary, watch)
	})
	p.began(w, r, s, j, err)
}

// replayed replays, some first if that is wanted.
func replayed(ctx context.Context, b operator.Broker, j *job, which pick, options operator.ReplayOptions, canary int, watch time.Duration) (operator.Done, error) {
	all := which.selection()
	var first operator.Done
	if canary > 0 {
		few, ids := all, []string(nil)
		if few.Most == 0 || few.Most > canary {
			few.Most = canary
		}
		few.Found = func(id string) { ids = append(ids, strings.Clone(id)) }
		var err error
		first, err = b.Replay(ctx, which.Queue, few, options, j.progress)
		if err != nil || first.Done == 0 {
			return first, err
		}
		if err := watchCanaries(ctx, b, j, which.Queue, ids, first, watch); err != nil {
			return first, err
		}
		if first.Matched < canary || first.Matched == all.Most {
			return first, nil
		}
		if all.Most > 0 {
			all.Most -= first.Done // those that were left are met again
		}
	}
	with := func(d operator.Done) operator.Done {
		d.Done, d.Matched = d.Done+first.Done, d.Matched+first.Done
		return d
	}
	j.say("")
	done, err := b.Replay(ctx, which.Queue, all, options, func(d operator.Done) { j.progress(with(d)) })
	return with(done), err
}

// watchCanaries sees what becomes of those that were replayed first, and returns an error if
// more than one in ten of them fails.
func watchCanaries(ctx context.Context, b operator.Broker, j *job, queue string, ids []string, first operator.Done, watch time.Duration) error {
	until := time.Now().Add(watch)
	for pause := time.Second; ; pause = min(2*pause, 10*time.Second) {
		left := time.Until(until)
		j.say(fmt.Sprintf("sees for %s what becomes of %s", short(max(left, 0)), plural(len(ids), "canary", "canaries")))
		last := left <= pause
		select {
		case <-time.After(min(pause, max(left, 0))):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		fate, err := b.Fate(ctx, queue, ids)
		switch {
		case err != nil:
			return err
		case fate.Failed()*10 > len(ids):
			return fmt.Errorf("it stopped by itself: of %s %s", plural(len(ids), "canary", "canaries"), fate.Text(first))
		case last && fate.Consumers == 0:
			return fmt.Errorf("it stopped by itself: nobody consumes %s, so that nothing is known of the canaries", queue)
		case last:
			return nil
		}
	}
}

// discard begins a job that takes dead letters away.
func (p *Page) discard(w http.ResponseWriter, r *http.Request, s *session) {
	which, err := picked(r.PostForm, operator.LetterFields)
	if err == nil {
		err = which.meant()
	}
	if err == nil && r.PostForm.Get("confirmed") != "yes" && r.PostForm.Get("typed") != which.Queue {
		err = fmt.Errorf("to discard more than %d, type the name of the queue: %s; nothing was done", typedFrom, which.Queue)
	}
	if err != nil {
		p.audit(r, s, "discard", "failed: "+err.Error())
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	if r.PostForm.Get("confirmed") == "yes" && (which.Limit == 0 || which.Limit > typedFrom) {
		which.Limit = typedFrom // more have not been agreed to
	}
	keep := r.PostForm.Get("archive") != "none"
	j := &job{Act: "discard", Queue: which.Queue, What: which.words(), Filter: which.Filter, least: admin}
	err = p.start(j, s, func(ctx context.Context, j *job) (operator.Done, error) {
		b, err := p.broker()
		if err != nil {
			return operator.Done{}, err
		}
		return p.archived(j, which.Queue+".dead", keep, func(a operator.Archive) (operator.Done, error) {
			return b.Discard(ctx, which.Queue, which.selection(), a, j.progress)
		})
	})
	p.began(w, r, s, j, err)
}

// edit shows the body of a dead letter to be changed.
func (p *Page) edit(w http.ResponseWriter, r *http.Request, s *session) {
	l, which, ok := p.oneLetter(w, r, s)
	if !ok {
		return
	}
	body := string(l.Body())
	p.render(w, r, s, http.StatusOK, "dead-edit", "Edit "+l.ID, editData{pick: which, Param: idParam(l.ID), ID: l.ID, Before: digest(l.Body()), Body: body, IsJSON: json.Valid(l.Body())})
}

type editData struct {
	pick
	ID, Param    string
	Before, Body string
	Coded        string
	IsJSON       bool
	NotJSON      string
	Same         bool
	Diff         []diffLine
}

func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// oneLetter is the one dead letter that a request is about. If there is none, or its body
// cannot be edited, that is answered.
func (p *Page) oneLetter(w http.ResponseWriter, r *http.Request, s *session) (*operator.Letter, pick, bool) {
	which, err := picked(r.Form, operator.LetterFields)
	if err == nil && len(which.IDs) != 1 {
		err = errors.New("no message is named")
	}
	if err != nil {
		p.fail(w, r, s, http.StatusBadRequest, err)
		return nil, which, false
	}
	which.Limit = 2
	var found []*operator.Letter
	err = p.looking(r, which.Queue, func(b operator.Broker) error {
		_, err := b.Letters(r.Context(), which.Queue, which.selection(), func(l *operator.Letter) error {
			found = append(found, l)
			return nil
		})
		return err
	})
	status := http.StatusConflict
	switch {
	case err != nil:
		status = http.StatusBadGateway
	case len(found) == 0:
		status, err = http.StatusNotFound, fmt.Errorf("no dead letter of %s has the id %s any more", which.Queue, which.IDs[0])
	case len(found) > 1:
		err = fmt.Errorf("several dead letters of %s have the id %s; editing is for one", which.Queue, which.IDs[0])
	case !utf8.Valid(found[0].Body()):
		err = errors.New("the body is not text; it can be edited with warren dead export and import")
	case found[0].Size > maxEdit:
		err = fmt.Errorf("the body has %s; %s can be edited here", size(found[0].Size), size(maxEdit))
	default:
		return found[0], which, true
	}
	p.fail(w, r, s, status, err)
	return nil, which, false
}

var errChanged = errors.New("its body is not the one that was edited any more")

// compare shows the difference that an edit makes.
func (p *Page) compare(w http.ResponseWriter, r *http.Request, s *session) {
	l, which, ok := p.oneLetter(w, r, s)
	if !ok {
		return
	}
	if r.PostForm.Get("before") != digest(l.Body()) {
		p.fail(w, r, s, http.StatusConflict, errChanged)
		return
	}
	before, after := string(l.Body()), r.PostForm.Get("body")
	if !strings.Contains(before, "\r") { // which forms write
		after = strings.ReplaceAll(after, "\r\n", "\n")
	}
	data := editData{
		pick: which, ID: l.ID, Param: idParam(l.ID), Before: digest(l.Body()), Body: after, Coded: base64.StdEncoding.EncodeToString([]byte(after)), Same: before == after, Diff: difference(before, after),
	}
	if json.Valid(l.Body()) {
		if err := json.Unmarshal([]byte(after), new(any)); err != nil {
			data.NotJSON = err.Error()
		}
	}
	p.audit(r, s, "edit", "allowed: the difference is shown")
	p.render(w, r, s, http.StatusOK, "dead-compare", "Edit "+l.ID, data)
}

// replayEdited begins a job that puts a dead letter back with another body.
func (p *Page) replayEdited(w http.ResponseWriter, r *http.Request, s *session) {
	which, err := picked(r.PostForm, operator.LetterFields)
	body, decoded := base64.StdEncoding.DecodeString(r.PostForm.Get("body"))
	if err = cmp.Or(err, decoded); err == nil && (len(which.IDs) != 1 || len(body) > maxEdit) {
		err = errors.New("an edit is for one message, and not longer than " + size(maxEdit))
	}
	if err != nil {
		p.audit(r, s, "replay edited", "failed: "+err.Error())
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	before := r.PostForm.Get("before")
	j := &job{Act: "replay", Queue: which.Queue, What: which.words() + ", with a body that was edited", least: operate}
	err = p.start(j, s, func(ctx context.Context, j *job) (operator.Done, error) {
		b, err := p.broker()
		if err != nil {
			return operator.Done{}, err
		}
		return b.Replay(ctx, which.Queue, which.selection(), operator.ReplayOptions{Body: func(l *operator.Letter) ([]byte, error) {
			if digest(l.Body()) != before {
				return nil, errChanged
			}
			return bytes.Clone(body), nil
		}}, j.progress)
	})
	p.began(w, r, s, j, err)
}

// archived has discard write into a new archive, which is taken away again if nothing was
// discarded.
func (p *Page) archived(j *job, what string, keep bool, discard func(operator.Archive) (operator.Done, error)) (operator.Done, error) {
	if !keep {
		return discard(nil)
	}
	file, err := p.newArchive(what, j.Began)
	if err != nil {
		return operator.Done{}, err
	}
	done, err := discard(file)
	if name := p.closeArchive(file); name != "" {
		j.mu.Lock()
		j.archive = name
		j.mu.Unlock()
	}
	return done, err
}
