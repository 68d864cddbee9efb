package page

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
)

const (
	// maxStreams is how many tabs are served at once.
	maxStreams = 100
	// A frame that takes long to make follows later: after so many times that.
	frameShare = 200
	// writeTimeout is how long a tab may take to read a frame.
	writeTimeout = 10 * time.Second
)

var pid = os.Getpid()

// live sends what changes on a page, as long as it is looked at.
func (p *Page) live(w http.ResponseWriter, r *http.Request, s *session) {
	select {
	case p.streams <- struct{}{}:
		defer func() { <-p.streams }()
	default:
		w.Header().Set("Retry-After", "30")
		http.Error(w, "too many tabs are open", http.StatusServiceUnavailable)
		return
	}
	query := r.URL.Query()
	view, err := p.liveView(query.Get("view"), query, s)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer view.leave()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	control := http.NewResponseController(w)
	var before []byte
	for {
		begun := time.Now()
		data, over := view.next()
		f := p.frame(s, view.template, "", data)
		var page bytes.Buffer
		if err := p.templates.ExecuteTemplate(&page, view.template, f); err != nil {
			p.log.Error("a page cannot be made", "page", view.template, "error", err)
			return
		}
		html := page.Bytes()
		if bytes.Equal(html, before) {
			html = nil // the same
		} else {
			before = bytes.Clone(html)
		}
		pause := min(max(view.every(), frameShare*time.Since(begun)), fleet.MaxWatchEvery)
		if err := p.event(w, control, "frame", struct {
			Next int64  `json:"next"` // in milliseconds
			HTML string `json:"html,omitempty"`
		}{pause.Milliseconds(), string(html)}); err != nil {
			return
		}
		if over {
			_ = p.event(w, control, "over", struct{}{})
			return
		}
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
			return
		}
		if p.sessions.of(r, false) == nil { // it has ended, or has been ended in another tab
			_ = p.event(w, control, "bye", struct{}{})
			return
		}
	}
}

func (p *Page) event(w http.ResponseWriter, control *http.ResponseController, name string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	if err := control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, text); err != nil {
		return err
	}
	return control.Flush()
}

// A liveView is what changes on a page.
type liveView struct {
	next     func() (data any, over bool)
	template string
	every    func() time.Duration // there is something new
	leave    func()
}

// liveView is the view of that name.
func (p *Page) liveView(view string, query url.Values, s *session) (liveView, error) {
	watched := func(deep bool, template string, see func(*picture) any) liveView {
		picture, leave := p.hub.look(deep)
		return liveView{func() (any, bool) { return see(picture), false }, template, func() time.Duration { return p.hub.every(picture, time.Now()) }, leave}
	}
	often, nothing := func() time.Duration { return frameEvery }, func() {}
	switch view {
	case "overview":
		return watched(false, "overview-live", func(picture *picture) any {
			picture.wait(p.ctx)
			o := p.hub.sees(picture, time.Now())
			o.arrange(query.Get("q"), query.Get("sort"))
			p.mark(&o)
			return o
		}), nil
	case "queue":
		queue := query.Get("queue")
		if len(queue) > 255 {
			return liveView{}, errors.New("the name of the queue is none")
		}
		return watched(true, "queue-live", func(picture *picture) any { return p.queueView(picture, queue, time.Now()) }), nil
	case "jobs":
		return liveView{func() (any, bool) { return p.jobsData(s), false }, "jobs-live", often, nothing}, nil
	case "job":
		j := p.jobs.find(query.Get("id"))
		if j == nil {
			return liveView{}, errors.New("there is no such job")
		}
		return liveView{func() (any, bool) {
			v := j.view(s.role)
			return v, !v.Running
		}, "job-live", often, nothing}, nil
	}
	return liveView{}, fmt.Errorf("there is no view %.40q", view)
}
