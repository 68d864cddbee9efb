package page

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/consumer/state"
)

// A found is where a message was looked for, and what was found there.
type found struct {
	Where    string
	ID       string
	Err      error
	Looked   string // in words
	Attempts []attemptRow
	Letters  []letterRow
	Waits    []waitRow
	State    *stateView
	Nothing  bool
}

type stateView struct {
	state.Message
	Word string
}

// message looks for a message wherever it may be, and shows what it finds as it finds it.
func (p *Page) message(w http.ResponseWriter, r *http.Request, s *session) {
	id, err := readID(r.FormValue("id"))
	if err != nil {
		p.fail(w, r, s, http.StatusBadRequest, err)
		return
	}
	out := p.begin(w, r, p.frame(s, "message", "Find a message", id))
	out.send("message-top", nil)
	if id != "" {
		out.send("found", p.foundState(r, id))
		picture, leave := p.hub.look(false)
		defer leave()
		picture.wait(r.Context())
		flying, there := p.foundInFlight(r, id)
		out.send("found", flying)
		if there {
			names := p.hub.names(picture)
			out.send("found", p.foundWaiting(r, id, names))
			out.send("found", p.foundDead(r, id, names))
		}
	}
	out.send("bottom", nil)
}

func (p *Page) foundState(r *http.Request, id string) found {
	f := found{Where: "The store of states", ID: id}
	if p.cfg.State == nil {
		f.Looked = "This daemon keeps no states: WARREN_DATABASE_URL is not set."
		return f
	}
	m, there, err := p.cfg.State(r.Context(), id, "")
	f.Err, f.Nothing = explained(r.Context(), err), !there
	if there {
		f.State = &stateView{m, string(m.State)}
	}
	return f
}

// foundInFlight asks the daemons. there is false if the broker cannot be used, as whoever looks
// further would find, too.
func (p *Page) foundInFlight(r *http.Request, id string) (f found, there bool) {
	f = found{Where: "In flight", ID: id}
	ctx, cancel := context.WithTimeout(r.Context(), quickly)
	defer cancel()
	c, err := p.dial(ctx)
	if err != nil {
		f.Err = explained(ctx, err)
		return f, false
	}
	defer c.Close()
	answers, err := c.Ask(ctx, fleet.Request{Verb: fleet.VerbStatus, Attempts: fleet.MaxAttempts}, 0, obeyedWithin)
	if f.Err = explained(ctx, err); err != nil {
		return f, true
	}
	unseen := 0
	for _, a := range answers {
		for i := 0; a.Status != nil && i < len(a.Status.Queues); i++ {
			q := a.Status.Queues[i]
			unseen += max(0, int(q.InFlight)-len(q.Attempts))
			for _, at := range q.Attempts {
				if at.MessageID == id {
					f.Attempts = append(f.Attempts, p.attemptRow(fleet.AttemptOf{Of: fleet.Of{Daemon: a.Daemon.Name(), Queue: q.Queue}, Attempt: at, Age: max(0, a.Status.At.Sub(at.Began))}))
				}
			}
		}
	}
	f.Nothing = len(f.Attempts) == 0
	f.Looked = plural(len(answers), "daemon has", "daemons have") + " answered."
	if unseen > 0 {
		f.Looked += fmt.Sprintf(" Of each queue the oldest %d are known; %s not.", fleet.MaxAttempts, plural(unseen, "younger one is", "younger ones are"))
	}
	return f, true
}

func (p *Page) foundWaiting(r *http.Request, id string, queues []string) found {
	f := found{Where: "Waiting", ID: id}
	b, err := p.broker()
	if err == nil {
		var list operator.WaitingList
		list, err = b.Waiting(r.Context(), queues, operator.Selection{IDs: []string{id}, Most: perPage}, 0)
		for _, m := range list.Messages {
			f.Waits = append(f.Waits, waitRow{m, idParam(m.MessageID)})
		}
		if len(list.Missing) > 0 {
			f.Looked = fmt.Sprintf("What is due for queues that are missing cannot be seen: %s.", list.Missing)
		}
	}
	f.Err, f.Nothing = explained(r.Context(), err), len(f.Waits) == 0
	return f
}

func (p *Page) foundDead(r *http.Request, id string, queues []string) found {
	f := found{Where: "Dead letters", ID: id}
	c, err := p.dial(r.Context())
	if err != nil {
		f.Err = explained(r.Context(), err)
		return f
	}
	defer c.Close()
	// What the hub has counted may be older than the letter that is looked for.
	dead := make(map[string]int)
	names := make([]string, len(queues))
	for i, queue := range queues {
		names[i] = queue + ".dead"
	}
	if f.Err = c.Counts(names, func(name string, messages, _ int, _ bool) { dead[name] = messages }); f.Err != nil {
		return f
	}
	looked, all := 0, 0
	for _, queue := range queues {
		if dead[queue+".dead"] == 0 || len(f.Letters) >= perPage {
			continue
		}
		err := p.looking(r, queue, func(b operator.Broker) error {
			found, err := b.Letters(r.Context(), queue, operator.Selection{IDs: []string{id}, Most: perPage}, func(l *operator.Letter) error {
				f.Letters = append(f.Letters, letterRow{Letter: operator.Letter{ID: id, Queue: queue, Reason: cut(l.Reason, 100), Error: cut(l.Error, 400), Attempts: l.Attempts, DeadAt: l.DeadAt}, Param: idParam(id)})
				return nil
			})
			looked, all = looked+1, all+found.All
			return err
		})
		if err != nil {
			f.Err = err
			if r.Context().Err() != nil {
				break
			}
		}
	}
	f.Nothing = len(f.Letters) == 0
	f.Looked = fmt.Sprintf("Looked at %s of %s.", plural(all, "dead letter", "dead letters"), plural(looked, "queue", "queues"))
	return f
}

// Updated is when that was so.
func (s stateView) Updated() time.Time { return s.At }
