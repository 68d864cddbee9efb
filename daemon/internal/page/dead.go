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
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/consumer/operator/filter"
)

const (
	// perPage is how many messages a page lists, and maxSkip how far it can be turned.
	perPage = 50
	maxSkip = 1_000_000
	// shownGroups is how many groups a page lists.
	shownGroups = 200
	// maxIDs is how many messages may be marked at once.
	maxIDs = 1000
	// maxFilter is the longest filter.
	maxFilter = 4000
	// maxEdit is the longest body that can be edited.
	maxEdit = 512 << 10
	// waitsForTurn is how long a page waits for others who look at the same queue: what one
	// of them holds, another does not see.
	waitsForTurn = 5 * time.Second
	// typedFrom is how many messages have to be confirmed by typing the name of their queue.
	typedFrom = 100
)

// A pick says which messages of a queue are meant.
type pick struct {
	Queue  string
	IDs    []string
	Filter string
	All    bool
	Limit  int
	filter *filter.Filter
}

var errNoQueue = errors.New("no queue is named")

// picked reads which messages are meant; fields are those that a filter may have.
func picked(form url.Values, fields filter.Fields) (p pick, err error) {
	p = pick{Queue: form.Get("queue"), Filter: strings.TrimSpace(form.Get("filter")), All: form.Get("all") == "yes"}
	switch {
	case p.Queue == "":
		return p, errNoQueue
	case len(p.Queue) > 255 || !utf8.ValidString(p.Queue):
		return p, errors.New("the name of the queue is none")
	case len(p.Filter) > maxFilter:
		return p, fmt.Errorf("the filter has %d bytes; %d are allowed", len(p.Filter), maxFilter)
	case len(form["id"]) > maxIDs:
		return p, fmt.Errorf("%d messages are marked; %d are allowed at once, or a filter", len(form["id"]), maxIDs)
	}
	for _, text := range form["id"] {
		id, err := readID(text)
		if err != nil {
			return p, err
		}
		p.IDs = append(p.IDs, id)
	}
	if p.Limit, err = whole(form, "limit", 0, 10_000_000); err != nil {
		return p, err
	}
	p.filter, err = filter.Parse(p.Filter, fields)
	return p, err
}

// meant tells whether it was said which.
func (p pick) meant() error {
	if len(p.IDs) == 0 && p.filter == nil && !p.All {
		return errors.New("nothing is marked; mark messages, or give a filter")
	}
	return nil
}

func (p pick) selection() operator.Selection {
	return operator.Selection{IDs: p.IDs, Filter: p.filter, Most: p.Limit}
}

// words say which messages are meant.
func (p pick) words() string {
	var out []string
	switch {
	case len(p.IDs) == 1:
		out = append(out, "the message "+p.IDs[0])
	case len(p.IDs) > 1:
		out = append(out, plural(len(p.IDs), "marked message", "marked messages"))
	}
	if p.Filter != "" {
		out = append(out, "those that match "+p.Filter)
	}
	if len(out) == 0 {
		out = append(out, "all")
	}
	if p.Limit > 0 {
		out = append(out, fmt.Sprintf("the first %s of them", count(p.Limit)))
	}
	return strings.Join(out, ", ")
}

// idParam is an id as a form can have it: one that a browser would change is quoted.
func idParam(id string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
	if strings.ContainsFunc(id, odd) || strings.HasPrefix(id, `"`) || strings.TrimSpace(id) != id {
		return strconv.QuoteToASCII(id)
	}
	return id
}

func readID(text string) (string, error) {
	if len(text) > 2000 {
		return "", errors.New("a message-id is too long to be one")
	}
	if strings.HasPrefix(text, `"`) {
		id, err := strconv.Unquote(text)
		if err != nil {
			return "", fmt.Errorf("the message-id %.40s is not one", text)
		}
		return id, nil
	}
	return text, nil
}

// whole reads a whole number within bounds; what is not given is 0.
func whole(form url.Values, name string, least, most int) (int, error) {
	text := strings.TrimSpace(form.Get(name))
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s is %.20q; it must be a whole number from %d to %d", name, text, least, most)
	}
	return n, nil
}

type deadData struct {
	pick
	New      bool // the newest first
	Skip     int
	List     bool // rather than groups
	FilterOf func(group string) string
}

type groupsData struct {
	deadData
	Groups []operator.Group
	More   int
	Looked operator.Looked
	Took   time.Duration
	Err    error
	Warn   string
}

type letterRow struct {
	operator.Letter
	Param string
}

type listData struct {
	deadData
	Letters    []letterRow
	Looked     operator.Looked
	Err        error
	Prev, Next string
	Warn       string
}

// dead shows the queues that have dead letters or, of one, its groups or list.
func (p *Page) dead(w http.ResponseWriter, r *http.Request, s *session) {
	query := r.URL.Query()
	if query.Get("queue") == "" {
		picture, leave := p.hub.look(false)
		defer leave()
		picture.wait(r.Context())
		o := p.hub.sees(picture, time.Now())
		o.arrange("", "-dead")
		p.render(w, r, s, http.StatusOK, "dead-queues", "Dead letters", o)
		return
	}
	which, err := picked(query, operator.LetterFields)
	data := deadData{pick: which, New: query.Get("order") == "new", List: which.Filter != "" || query.Get("show") == "list", FilterOf: groupFilter}
	var skipErr error
	data.Skip, skipErr = whole(query, "skip", 0, maxSkip)
	f := p.frame(s, "dead", "Dead letters of "+which.Queue, data)
	if err = cmp.Or(err, skipErr); err != nil {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusBadRequest)
		out := p.begin(w, r, f)
		out.send("dead-top", nil)
		out.send("dead-wrong", problem{Err: err})
		out.send("bottom", nil)
		return
	}
	out := p.begin(w, r, f)
	out.send("dead-top", nil)
	if data.List {
		out.send("dead-list", p.list(r, data))
	} else {
		out.send("dead-groups", p.groups(r, data))
	}
	out.send("bottom", nil)
}

// groupFilter is the filter of a group.
func groupFilter(group string) string { return "group = " + group }

func (p *Page) groups(r *http.Request, data deadData) groupsData {
	out := groupsData{deadData: data}
	begun := time.Now()
	out.Err = p.looking(r, data.Queue, func(b operator.Broker) (err error) {
		out.Groups, out.Looked, err = b.Groups(r.Context(), data.Queue, data.selection())
		return err
	})
	out.Took = time.Since(begun)
	if out.More = len(out.Groups) - shownGroups; out.More > 0 {
		out.Groups = out.Groups[:shownGroups]
	}
	out.Warn = warning(data.Queue, out.Looked)
	return out
}

// looking looks into what belongs to a queue when it is its turn.
func (p *Page) looking(r *http.Request, queue string, look func(operator.Broker) error) error {
	b, err := p.broker()
	if err != nil {
		return err
	}
	soon, cancel := context.WithTimeout(r.Context(), waitsForTurn)
	defer cancel()
	release, err := p.looks.hold(soon, queue)
	if err != nil {
		if j := p.jobs.on(queue); j != nil {
			return fmt.Errorf("a job is at work on %s: %s of %s, by %s; look again when it has ended, or cancel it", queue, j.Act, j.What, j.By)
		}
		return fmt.Errorf("somebody else looks at %s just now; look again in a moment", queue)
	}
	defer release()
	return explained(r.Context(), look(b))
}

// warning tells of a delivery limit that looking comes near to.
func warning(queue string, looked operator.Looked) string {
	if looked.InVain == 0 {
		return ""
	}
	return fmt.Sprintf("The broker counts each look at %s.dead, %d by now, and drops what is over the queue's delivery limit, 20 unless it is set: set it with rabbitmqctl set_policy (delivery-limit).", queue, looked.InVain)
}

func (p *Page) list(r *http.Request, data deadData) listData {
	out := listData{deadData: data}
	which := data.selection()
	keep := data.Skip + perPage
	if !data.New {
		which.Most = keep + 1
	}
	var letters []letterRow
	seen := 0
	out.Err = p.looking(r, data.Queue, func(b operator.Broker) (err error) {
		out.Looked, err = b.Letters(r.Context(), data.Queue, which, func(l *operator.Letter) error {
			seen++
			if !data.New && (seen <= data.Skip || len(letters) == perPage) {
				return nil
			}
			row := letterRow{Letter: operator.Letter{
				ID: strings.Clone(l.ID), Queue: l.Queue, Reason: l.Reason, Error: cut(l.Error, 600), Attempts: l.Attempts, Replayed: l.Replayed, DeadAt: l.DeadAt, Type: l.Type, Size: l.Size, Group: l.Group,
			}, Param: idParam(l.ID)}
			if letters = append(letters, row); data.New && len(letters) > keep {
				letters = letters[1:]
			}
			return nil
		})
		return err
	})
	more := seen > keep
	if data.New {
		slices.Reverse(letters)
		letters = letters[min(data.Skip, len(letters)):]
	}
	out.Letters, out.Warn = letters, warning(data.Queue, out.Looked)
	order := ""
	if data.New {
		order = "new"
	}
	turned := func(skip int) string {
		text := ""
		if skip > 0 {
			text = strconv.Itoa(skip)
		}
		return p.link("dead", "queue", data.Queue, "filter", data.Filter, "show", "list", "order", order, "skip", text)
	}
	if data.Skip > 0 {
		out.Prev = turned(max(0, data.Skip-perPage))
	}
	if more && data.Skip+perPage <= maxSkip {
		out.Next = turned(data.Skip + perPage)
	}
	return out
}

// A letterView is a dead letter whole.
type letterView struct {
	operator.Letter
	Param      string
	TraceID    string
	TraceURL   string
	Properties []operator.Property
	Headers    []operator.Property
	Kind       string
	Text       template.HTML
	Cut        bool
	Editable   bool
}

func (p *Page) viewLetter(l *operator.Letter) letterView {
	v := letterView{Letter: *l, Param: idParam(l.ID), TraceID: l.TraceID(), Properties: l.Properties()}
	v.TraceURL = p.traceURL(v.TraceID)
	headers := l.Headers()
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		v.Headers = append(v.Headers, operator.Property{Name: name, Value: cut(headerText(headers[name]), 16<<10)})
	}
	kind, text := pretty(l.Body())
	v.Kind, v.Cut = kind, len(text) > shownBytes || kind == "binary" && l.Size > shownBytes/5
	v.Text = lines(cut(text, shownBytes))
	v.Editable = utf8.Valid(l.Body()) && l.Size <= maxEdit
	return v
}

// traceURL is where a trace can be seen; empty: that is not known.
func (p *Page) traceURL(id string) string {
	if id == "" || p.cfg.TraceURL == "" {
		return ""
	}
	return strings.ReplaceAll(p.cfg.TraceURL, "{trace}", url.PathEscape(id))
}

// headerText is the value of a header, its strings as they are.
func headerText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return hex.EncodeToString(v)
	case time.Time:
		return v.Format(time.RFC3339)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

type lettersData struct {
	pick
	Letters []letterView
	Looked  operator.Looked
	Err     error
	Warn    string
}

// letter shows the dead letters that have an id, which is one as a rule.
func (p *Page) letter(w http.ResponseWriter, r *http.Request, s *session) {
	which, err := picked(r.URL.Query(), operator.LetterFields)
	if err == nil && len(which.IDs) != 1 {
		err = errors.New("no message is named")
	}
	if err != nil {
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	which.Limit = 5
	data := lettersData{pick: which}
	data.Err = p.looking(r, which.Queue, func(b operator.Broker) (err error) {
		data.Looked, err = b.Letters(r.Context(), which.Queue, which.selection(), func(l *operator.Letter) error {
			data.Letters = append(data.Letters, p.viewLetter(l))
			return nil
		})
		return err
	})
	data.Warn = warning(which.Queue, data.Looked)
	status := http.StatusOK
	if data.Err != nil {
		status = http.StatusBadGateway
	} else if len(data.Letters) == 0 {
		status = http.StatusNotFound
	}
	p.render(w, r, s, status, "dead-letter", "Dead letter "+which.IDs[0], data)
}

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
				data.Sample = append(data.Sample, letterRow{Letter: operator.Letter{ID: strings.Clone(l.ID), Reason: l.Reason, Error: cut(l.Error, 300), DeadAt: l.DeadAt}, Param: idParam(l.ID)})
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

// Where a canary may be seen after.
const (
	leastWatch = 2 * time.Second
	mostWatch  = 10 * time.Minute
	usualWatch = 30 * time.Second
)

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
		if err := watchCanaries(ctx, b, j, which.Queue, ids, watch); err != nil {
			return first, err
		}
		if first.Matched < canary || first.Matched == all.Most {
			return first, nil
		}
		if all.Most > 0 {
			all.Most -= first.Matched
		}
	}
	with := func(d operator.Done) operator.Done {
		d.Done, d.Left, d.Matched = d.Done+first.Done, d.Left+first.Left, d.Matched+first.Matched
		return d
	}
	j.say("")
	done, err := b.Replay(ctx, which.Queue, all, options, func(d operator.Done) { j.progress(with(d)) })
	return with(done), err
}

// watchCanaries sees what becomes of those that were replayed first, and returns an error if
// more than one in ten of them fails.
func watchCanaries(ctx context.Context, b operator.Broker, j *job, queue string, ids []string, watch time.Duration) error {
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
			return fmt.Errorf("it stopped by itself: of %s %d are dead again, %d wait for another attempt, and %d have no message-id to be known by",
				plural(len(ids), "canary", "canaries"), fate.Dead, fate.Retrying, fate.Unknown)
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
