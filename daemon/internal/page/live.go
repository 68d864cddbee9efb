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
)

const (
	// maxStreams is how many tabs are served at once.
	maxStreams = 100
	// A frame of a large fleet takes longer to make, and follows later: after so many times
	// that, but no later than what a tab takes for live.
	frameShare   = 200
	slowestFrame = 5 * time.Second
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
	next, name, leave, err := p.liveView(query.Get("view"), query, s)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer leave()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	control := http.NewResponseController(w)
	var before []byte
	for {
		begun := time.Now()
		data, over := next()
		f := p.frame(s, name, "", data)
		var page bytes.Buffer
		if err := p.templates.ExecuteTemplate(&page, name, f); err != nil {
			p.log.Error("a page cannot be made", "page", name, "error", err)
			return
		}
		html := page.Bytes()
		if bytes.Equal(html, before) {
			html = nil // the same
		} else {
			before = bytes.Clone(html)
		}
		if err := p.event(w, control, "frame", struct {
			At   int64  `json:"at"`
			HTML string `json:"html,omitempty"`
		}{time.Now().UnixMilli(), string(html)}); err != nil {
			return
		}
		if over {
			_ = p.event(w, control, "over", struct{}{})
			return
		}
		pause := min(max(frameEvery, frameShare*time.Since(begun)), slowestFrame)
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
			return
		}
		if p.sessions.of(r) == nil { // it has ended, or has been ended in another tab
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

// liveView is what makes the data of a view again and again, for the template of that name.
func (p *Page) liveView(view string, query url.Values, s *session) (next func() (data any, over bool), name string, leave func(), err error) {
	switch view {
	case "overview":
		picture, leave := p.hub.look(false)
		picture.wait(p.ctx)
		return func() (any, bool) {
			o := p.hub.sees(picture, time.Now())
			o.arrange(query.Get("q"), query.Get("sort"))
			p.mark(&o)
			return o, false
		}, "overview-live", leave, nil
	}
	switch view {
	case "queue":
		queue := query.Get("queue")
		if len(queue) > 255 {
			return nil, "", nil, errors.New("the name of the queue is none")
		}
		picture, leave := p.hub.look(true)
		return func() (any, bool) { return p.queueView(picture, queue, time.Now()), false }, "queue-live", leave, nil
	case "jobs":
		return func() (any, bool) { return p.jobsData(s), false }, "jobs-live", func() {}, nil
	case "job":
		j := p.jobs.find(query.Get("id"))
		if j == nil {
			return nil, "", nil, errors.New("there is no such job")
		}
		return func() (any, bool) {
			v := j.view(s.role)
			return v, !v.Running
		}, "job-live", func() {}, nil
	}
	return nil, "", nil, fmt.Errorf("there is no view %.40q", view)
}
