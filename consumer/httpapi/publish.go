package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/warrenmq/warren/consumer"
)

const (
	// maxPropertyBytes is what AMQP allows a property.
	maxPropertyBytes = 255
	// maxDelay is the longest delay that Warren believes.
	maxDelay = 366 * 24 * time.Hour
)

var errBusy = errors.New("too many messages are being published at once")

// publish answers 202 once the broker has the message of the request.
func (a *api) publish(w http.ResponseWriter, r *http.Request) {
	queue := r.PathValue("queue")
	if !a.works(queue) {
		refuse(w, http.StatusNotFound, "queue %q is not worked here; there are %s", queue, a.queueNames())
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), publishTimeout, errBusy)
	defer cancel()
	select { // before the body is read: so many are held in memory at most
	case a.publishing <- struct{}{}:
		defer func() { <-a.publishing }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		unavailable(w, "not accepted: %v", context.Cause(ctx))
		return
	}
	m, status, err := a.message(w, r, queue)
	if err != nil {
		refuse(w, status, "%v", err)
		return
	}
	ctx = a.Propagator.Extract(ctx, propagation.HeaderCarrier(r.Header))
	if err := a.Publish(ctx, m); err != nil {
		if ctx.Err() != nil {
			err = errors.New("the broker has not confirmed the message in time; it may have it all the same, send it again with the same Idempotency-Key")
		}
		a.log.Debug("message of a request not published", "queue", queue, "message_id", m.MessageID, "error", err)
		unavailable(w, "not accepted: %v", err)
		return
	}
	if a.Store != nil {
		// Before the answer, or whoever follows the Location at once is told that there
		// is no such message.
		if err := a.Store.Accept(ctx, queue, m.MessageID); err != nil {
			a.log.Debug("state of an accepted message not written", "queue", queue, "message_id", m.MessageID, "error", err)
		} else {
			w.Header().Set("Location", "/v1/messages/"+url.PathEscape(m.MessageID))
		}
	}
	answer(w, http.StatusAccepted, accepted{m.MessageID, queue})
}

// accepted is the body of a 202.
type accepted struct {
	MessageID string `json:"message_id"`
	Queue     string `json:"queue"`
}

// answer answers with v as JSON.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}

// message makes the message of the request, or returns the status to refuse it with.
func (a *api) message(w http.ResponseWriter, r *http.Request, queue string) (consumer.Message, int, error) {
	m := consumer.Message{RoutingKey: queue, AppID: "warren", ContentType: r.Header.Get("Content-Type"), ContentEncoding: r.Header.Get("Content-Encoding")}
	var faults [4]error
	m.MessageID, faults[0] = messageID(r.Header)
	m.Headers, faults[1] = delay(r.Header.Get("X-Delay"))
	isJSON, err := isJSON(m.ContentType)
	faults[2] = err
	if len(m.ContentType) > maxPropertyBytes || len(m.ContentEncoding) > maxPropertyBytes {
		faults[3] = fmt.Errorf("Content-Type or Content-Encoding is longer than %d bytes", maxPropertyBytes)
	}
	if err := errors.Join(faults[:]...); err != nil {
		return m, http.StatusBadRequest, err
	}
	m.Body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, a.MaxBodyBytes))
	if _, tooLong := errors.AsType[*http.MaxBytesError](err); tooLong {
		return m, http.StatusRequestEntityTooLarge, fmt.Errorf("the body is longer than %d bytes; raise WARREN_ADMIN_MAX_BODY_BYTES, or keep it elsewhere and send where it is", a.MaxBodyBytes)
	}
	if err != nil {
		return m, http.StatusBadRequest, fmt.Errorf("the body has not come whole: %w", err)
	}
	if isJSON && m.ContentEncoding == "" {
		if err := checkJSON(m.Body); err != nil {
			return m, http.StatusBadRequest, err
		}
	}
	return m, 0, nil
}

// messageID is that of Message-Id or Idempotency-Key, or a new one.
func messageID(header http.Header) (string, error) {
	id := header.Get("Message-Id")
	// The draft for Idempotency-Key has it in quotes, its users mostly do not.
	key := strings.Trim(header.Get("Idempotency-Key"), `"`)
	switch {
	case id != "" && key != "" && id != key:
		return "", errors.New("Message-Id and Idempotency-Key differ; either is the message-id, leave one out")
	case id == "":
		id = key
	}
	switch {
	case id == "":
		return rand.Text(), nil
	case len(id) > maxPropertyBytes:
		return "", fmt.Errorf("the message-id has %d bytes; AMQP allows %d", len(id), maxPropertyBytes)
	case id == "." || id == ".." || strings.ContainsFunc(id, func(r rune) bool { return r < '!' || r > '~' }):
		return "", errors.New("the message-id may have printable ASCII characters other than the space, and not be one or two dots")
	}
	return id, nil
}

// delay returns the headers of a message for the value of X-Delay.
func delay(value string) (map[string]any, error) {
	if value == "" {
		return nil, nil
	}
	ms, err := strconv.ParseInt(value, 10, 64)
	if err != nil || ms < 0 || ms > maxDelay.Milliseconds() {
		return nil, fmt.Errorf("X-Delay is %.40q; it must be a number of milliseconds, at most %d", value, maxDelay.Milliseconds())
	}
	return map[string]any{"x-delay": ms}, nil
}

// isJSON tells whether a body of that content type is to be JSON, as one without is.
func isJSON(contentType string) (bool, error) {
	if contentType == "" {
		return true, nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false, fmt.Errorf("Content-Type is not one: %w", err)
	}
	return media == "application/json" || strings.HasSuffix(media, "+json"), nil
}

func checkJSON(body []byte) error {
	var v json.RawMessage
	err := json.Unmarshal(body, &v)
	if err == nil {
		return nil
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("the body is not JSON, at byte %d: %w; send another Content-Type if it is not meant to be", syntax.Offset, err)
	}
	return fmt.Errorf("the body is not JSON: %w", err)
}
