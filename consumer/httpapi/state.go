package httpapi

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/state"
)

// A standing is what a client is told of a message.
type standing struct {
	MessageID   string         `json:"message_id"`
	Queue       string         `json:"queue"`
	State       consumer.State `json:"state"`
	Attempt     int            `json:"attempt"`
	Redelivered bool           `json:"redelivered,omitempty"`
	UpdatedAt   time.Time      `json:"updated_at"`
	DueAt       *time.Time     `json:"due_at,omitempty"`
	Progress    *progress      `json:"progress,omitempty"`
	Reason      string         `json:"reason,omitempty"`
	Error       string         `json:"error,omitempty"`
	Result      *result        `json:"result,omitempty"`
}

type progress struct {
	Percent int    `json:"percent"`
	Text    string `json:"text,omitempty"`
}

// A result has the body as JSON if it is that, or in base64; neither if it was too
// long to be kept.
type result struct {
	ContentType string          `json:"content_type"`
	Bytes       int             `json:"bytes"`
	JSON        json.RawMessage `json:"json,omitempty"`
	Base64      []byte          `json:"base64,omitempty"`
}

// state answers where a message stands.
func (a *api) state(w http.ResponseWriter, r *http.Request) {
	if a.Store == nil {
		refuse(w, http.StatusNotImplemented, "no states are kept, because there is no database: set WARREN_DATABASE_URL")
		return
	}
	id, queue := r.PathValue("id"), r.URL.Query().Get("queue")
	if !utf8.ValidString(queue) || strings.ContainsFunc(queue, unicode.IsControl) {
		refuse(w, http.StatusBadRequest, "queue is not text in UTF-8")
		return
	}
	m, known, err := a.Store.State(r.Context(), id, queue)
	switch {
	case err != nil:
		a.log.Debug("state of a message not read", "message_id", id, "error", err)
		unavailable(w, "the database cannot be used now")
		return
	case !known:
		refuse(w, http.StatusNotFound, "nothing is known of the message %q; its state may have expired, see WARREN_STATUS_TTL", id)
		return
	}
	if wait := pollAfter(m, time.Now()); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(wait))
	}
	answer(w, http.StatusOK, stateOf(m))
}

// maxPollAfter is the longest that a client is asked to wait, in seconds.
const maxPollAfter = 60

// pollAfter is in how many seconds there may be news of the message; zero if there
// will be none.
func pollAfter(m state.Message, now time.Time) int {
	switch m.State {
	case consumer.Succeeded, consumer.Dead:
		return 0
	case consumer.Waiting:
		return int(min(max(math.Ceil(m.Due.Sub(now).Seconds()), 1), maxPollAfter))
	}
	return 1
}

func stateOf(m state.Message) standing {
	s := standing{
		MessageID: m.MessageID, Queue: m.Queue, State: m.State, Attempt: m.Attempt, Redelivered: m.Redelivered, UpdatedAt: m.At.UTC(),
		Reason: m.Reason, Error: m.Error,
	}
	if m.State == consumer.Waiting {
		due := m.Due.UTC()
		s.DueAt = &due
	}
	if m.State == consumer.Processing {
		s.Progress = &progress{m.Percent, m.Text}
	}
	if m.State == consumer.Succeeded {
		s.Result = resultOf(m)
	}
	return s
}

func resultOf(m state.Message) *result {
	r := &result{ContentType: m.Result.ContentType, Bytes: m.ResultBytes}
	if r.ContentType == "" {
		r.ContentType = "application/json"
	}
	body := m.Result.Body
	if asJSON, _ := isJSON(r.ContentType); asJSON && json.Valid(body) {
		r.JSON = bytes.TrimSpace(body)
	} else {
		r.Base64 = body
	}
	return r
}
