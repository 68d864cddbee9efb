package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/result"
)

const (
	maxDrainBytes   = 256 << 10
	maxExcerptBytes = 300
	maxReadBytes    = 16 * maxExcerptBytes
	// drainTimeout is how long the rest of an answer is waited for that nobody needs,
	// but for the connection to be used again.
	drainTimeout = time.Second
	// maxRetryAfter is the longest wait that a server can ask for.
	maxRetryAfter = 24 * time.Hour
)

var errDrained = errors.New("the rest of the answer did not come in time")

// An answer is a response whose body has not been read yet. Cancel cuts it off.
type answer struct {
	*http.Response
	cancel context.CancelCauseFunc
}

// result reads the body as the result of the delivery. Unless somebody waits for it,
// there is none if it does not come soon and whole. Of one that is too long there is
// only that.
func (a *answer) result(awaited bool) (r consumer.Result, tooLong bool, err error) {
	if !awaited {
		timer := time.AfterFunc(drainTimeout, func() { a.cancel(errDrained) })
		defer timer.Stop()
	}
	body, err := io.ReadAll(io.LimitReader(a.Body, result.MaxBytes+1))
	switch {
	case len(body) > result.MaxBytes:
		return result.TooLong(), true, nil
	case err != nil && awaited:
		return r, false, fmt.Errorf("the answer %s broke off, and reply-to asks for it: %w", a.Status, err)
	case err != nil || len(body) == 0:
		return r, false, nil
	}
	return consumer.Result{ContentType: result.ContentType(a.Header.Get("Content-Type")), Body: body}, false, nil
}

// drain reads what is left, so that the connection can be used again. If that is too
// much or takes too long, it is left: then the connection is closed.
func (a *answer) drain() {
	timer := time.AfterFunc(drainTimeout, func() { a.cancel(errDrained) })
	defer timer.Stop()
	_, _ = io.CopyN(io.Discard, a.Body, maxDrainBytes) // the verdict stands already
}

// excerpt returns the beginning of the body in one line.
func (a *answer) excerpt(secrets *redactor) string {
	timer := time.AfterFunc(drainTimeout, func() { a.cancel(errDrained) })
	defer timer.Stop()
	// More than is shown, since whitespace and secrets are shortened. An answer that breaks off
	// may do so in a secret, too.
	body, err := io.ReadAll(io.LimitReader(a.Body, maxReadBytes))
	text := secrets.redacted(string(body), err != nil || len(body) == maxReadBytes)
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "\uFFFD")), " ")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	if len(text) > maxExcerptBytes {
		text = strings.ToValidUTF8(text[:maxExcerptBytes], "") + "..."
	}
	return text
}

// refusal is the error for an answer that is no success.
func (p *processor) refusal(a *answer, now time.Time) error {
	text := strings.TrimSpace(fmt.Sprintf("%s answered %d %s", p.url.Host, a.StatusCode, http.StatusText(a.StatusCode)))
	if excerpt := a.excerpt(p.secrets); excerpt != "" {
		text += ": " + excerpt
	}
	a.drain()
	err := errors.New(text)
	switch {
	case a.StatusCode == http.StatusServiceUnavailable:
		return consumer.Unavailable(consumer.RetryAfter(err, retryAfter(a.Header.Get("Retry-After"), now)))
	case a.StatusCode/100 == 5, a.StatusCode == http.StatusRequestTimeout, a.StatusCode == http.StatusTooEarly, a.StatusCode == http.StatusTooManyRequests:
		return consumer.RetryAfter(err, retryAfter(a.Header.Get("Retry-After"), now))
	case a.StatusCode/100 == 3:
		err = fmt.Errorf("%w; redirects are not followed, set URL to where it leads", err)
	}
	return consumer.Permanent(err)
}

// retryAfter reads the header Retry-After: seconds, or a date. It is zero if the
// header says nothing of use.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(strings.TrimSpace(value), 10, 63); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// unanswered is the error for a request that had no answer because of err. If there
// was no connection for it, none of it was sent, and no other message would fare
// better.
func (p *processor) unanswered(ctx context.Context, err error, connected bool) error {
	host := p.url.Host
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		err = fmt.Errorf("the TLS certificate of %s does not verify: %w; name the authority that signed it with CA_FILE=/path/ca.pem", host, certificate.Err)
	} else if ctx.Err() != nil {
		err = fmt.Errorf("%w: no answer from %s", context.Cause(ctx), host)
	} else {
		err = fmt.Errorf("no answer from %s: %w", host, err)
	}
	if connected {
		return err
	}
	return consumer.Unavailable(err)
}
