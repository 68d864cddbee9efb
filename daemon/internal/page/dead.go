package page

import (
	"cmp"
	"context"
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
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/daemon/internal/legible"
)

const (
	// perPage is how many messages a page lists, and maxSkip how far it can be turned; maxSkipNew,
	// with the newest first, since as many are kept then until all have been seen.
	perPage    = 50
	maxSkip    = 1_000_000
	maxSkipNew = 10_000
	// shownGroups is how many groups a page lists.
	shownGroups = 200
	// waitsForTurn is how long a page waits for others who look at the same queue: what one
	// of them holds, another does not see.
	waitsForTurn = 5 * time.Second
)

type deadData struct {
	pick
	New      bool // the newest first
	Skip     int
	List     bool // rather than groups
	FilterOf func(group string) string
}

// maxSkip is how far the list can be turned.
func (d deadData) maxSkip() int {
	if d.New {
		return maxSkipNew
	}
	return maxSkip
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
	data.Skip, skipErr = whole(query, "skip", 0, data.maxSkip())
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
				ID: strings.Clone(l.ID), Queue: l.Queue, Reason: cut(l.Reason, 100), Error: cut(l.Error, 600), Attempts: l.Attempts, Replayed: l.Replayed, DeadAt: l.DeadAt, Type: l.Type, Size: l.Size, Group: l.Group,
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
	if more && data.Skip+perPage <= data.maxSkip() {
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
		v.Headers = append(v.Headers, operator.Property{Name: name, Value: cut(legible.Header(headers[name]), 16<<10)})
	}
	kind, text := legible.Body(l.Body(), shownBytes/5)
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
