package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"go.opentelemetry.io/otel/propagation"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/jsonvalue"
)

// maxPropertyBytes is what AMQP allows a property.
const maxPropertyBytes = 255

var errBusy = errors.New("too many messages are being published at once")

// publish answers 202 once the broker has the message of the request.
func (a *api) publish(w http.ResponseWriter, r *http.Request) {
	queue := r.PathValue("queue")
	if !a.works(queue) {
		refuse(w, http.StatusNotFound, "queue %q is not worked here; there are %s", queue, a.queueNames())
		return
	}
	m, err := message(r.Header, queue)
	if err != nil {
		refuse(w, statusOf(err), "%v", err)
		return
	}
	m.AppID = a.Program
	body := heldBody{Reader: http.MaxBytesReader(w, r.Body, a.MaxBodyBytes), all: &a.held, most: maxPublishing * a.MaxBodyBytes}
	defer body.release()
	if m.Body, err = io.ReadAll(&body); err == nil {
		err = checkBody(m)
	} else {
		err = a.explainBody(err)
	}
	switch {
	case errors.Is(err, errBusy):
		unavailable(w, "not accepted: %v", err)
		return
	case err != nil:
		refuse(w, statusOf(err), "%v", err)
		return
	}
	// Only now: a client that takes its time with the body keeps no other waiting.
	ctx, cancel := context.WithTimeoutCause(r.Context(), publishTimeout, errBusy)
	defer cancel()
	select {
	case a.publishing <- struct{}{}:
		defer func() { <-a.publishing }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		unavailable(w, "not accepted: %v", context.Cause(ctx))
		return
	}
	ctx = a.Propagator.Extract(ctx, propagation.HeaderCarrier(r.Header))
	sent := time.Now()
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
		if err := a.Store.Accept(ctx, queue, m.MessageID, sent); err != nil {
			a.log.Debug("state of an accepted message not written", "queue", queue, "message_id", m.MessageID, "error", err)
		} else {
			w.Header().Set("Location", a.BasePath+"/v1/messages/"+url.PathEscape(m.MessageID))
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

// A requestError is what is wrong with a request, if that is not a status of 400.
type requestError struct {
	error
	status int
}

func statusOf(err error) int {
	if e, ok := errors.AsType[requestError](err); ok {
		return e.status
	}
	return http.StatusBadRequest
}

// A heldBody is read into memory, in which the bodies of all requests have so much room.
type heldBody struct {
	io.Reader
	all        *atomic.Int64
	mine, most int64
}

func (b *heldBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.mine += int64(n)
	if b.all.Add(int64(n)) > b.most {
		return n, errBusy
	}
	return n, err
}

func (b *heldBody) release() { b.all.Add(-b.mine) }

// message makes the message of a request from its headers.
func message(header http.Header, queue string) (consumer.Message, error) {
	m := consumer.Message{
		RoutingKey: queue, ContentType: header.Get("Content-Type"), ContentEncoding: header.Get("Content-Encoding"),
		Type: header.Get("Amqp-Type"), ReplyTo: header.Get("Amqp-Reply-To"), CorrelationID: header.Get("Amqp-Correlation-Id"),
	}
	var faults []error
	fault := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	var err error
	m.MessageID, err = messageID(header)
	fault(err)
	m.Headers, err = headers(header.Get("Amqp-Headers"))
	fault(err)
	if delay, there, err := number(header, "X-Delay", 0, consumer.MaxDelay.Milliseconds(), " of milliseconds"); err != nil {
		fault(err)
	} else if there {
		if m.Headers == nil {
			m.Headers = make(map[string]any, 1)
		}
		m.Headers["x-delay"] = delay
	}
	priority, _, err := number(header, "Amqp-Priority", 0, math.MaxUint8, "")
	m.Priority = uint8(priority) //nolint:gosec // it is in range
	fault(err)
	expiration, _, err := number(header, "Amqp-Expiration", 1, math.MaxUint32, " of milliseconds")
	m.Expiration = time.Duration(expiration) * time.Millisecond
	fault(err)
	for _, name := range []string{"Content-Type", "Content-Encoding", "Amqp-Type", "Amqp-Reply-To", "Amqp-Correlation-Id"} {
		switch value := header.Get(name); {
		case len(value) > maxPropertyBytes:
			fault(fmt.Errorf("%s is longer than %d bytes", name, maxPropertyBytes))
		case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
			fault(fmt.Errorf("%s is not text in UTF-8", name))
		}
	}
	if _, err := isJSON(m.ContentType); err != nil {
		fault(err)
	}
	return m, errors.Join(faults...)
}

// checkBody returns what is wrong with the body of m.
func checkBody(m consumer.Message) error {
	if is, _ := isJSON(m.ContentType); !is || m.ContentEncoding != "" {
		return nil
	}
	return checkJSON(m.Body)
}

// explainBody says why a body was not read.
func (a *api) explainBody(err error) error {
	if errors.Is(err, errBusy) {
		return err
	}
	if _, tooLong := errors.AsType[*http.MaxBytesError](err); tooLong {
		return requestError{fmt.Errorf("the body is longer than %d bytes; raise WARREN_ADMIN_MAX_BODY_BYTES, or keep it elsewhere and send where it is", a.MaxBodyBytes), http.StatusRequestEntityTooLarge}
	}
	return fmt.Errorf("the body has not come whole: %w", err)
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

// number reads a header that is a whole number within bounds. there is false if there is
// no such header.
func number(header http.Header, name string, least, most int64, of string) (n int64, there bool, err error) {
	value := header.Get(name)
	if value == "" {
		return 0, false, nil
	}
	n, err = strconv.ParseInt(value, 10, 64)
	if err != nil || n < least || n > most {
		return 0, false, fmt.Errorf("%s is %.40q; it must be a number%s from %d to %d", name, value, of, least, most)
	}
	return n, true, nil
}

// headers reads the value of Amqp-Headers.
func headers(value string) (map[string]any, error) {
	if value == "" {
		return nil, nil
	}
	if !utf8.ValidString(value) {
		return nil, errors.New("Amqp-Headers is not text in UTF-8")
	}
	all, err := jsonvalue.Object(value)
	if err != nil {
		return nil, fmt.Errorf("Amqp-Headers is not a JSON object: %w", err)
	}
	for name := range all {
		switch lower := strings.ToLower(name); {
		case lower == "x-delay":
			return nil, errors.New("Amqp-Headers has x-delay; send the header X-Delay instead")
		case lower == "cc" || lower == "bcc" || lower == "x-death" || strings.HasPrefix(lower, "x-warren-"):
			return nil, fmt.Errorf("Amqp-Headers has %.40q, which only RabbitMQ and Warren set, or which would send copies to other queues", name)
		}
	}
	return all, nil
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
	if media == "application/x-www-form-urlencoded" {
		return false, requestError{errors.New("Content-Type is that of a form, which curl -d sends unless it is told otherwise; send Content-Type: application/json, or use curl --json"), http.StatusUnsupportedMediaType}
	}
	return media == "application/json" || strings.HasSuffix(media, "+json"), nil
}

func checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		return fmt.Errorf("the body is not UTF-8, at byte %d; send another Content-Type if it is not meant to be JSON", firstInvalid(body)+1)
	}
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

// firstInvalid is where body is no UTF-8 any more.
func firstInvalid(body []byte) int {
	for i := 0; i < len(body); {
		r, size := utf8.DecodeRune(body[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(body)
}
