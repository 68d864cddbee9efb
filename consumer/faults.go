package consumer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A fault is an error in an operator's words: what is wrong and what settles it.
type fault struct {
	text  string
	cause error
	// lasting is true if waiting does not help: somebody has to change something.
	lasting bool
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.cause }

// isLasting tells whether err, or one of those it joins, stays until somebody
// changes something.
func isLasting(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return slices.ContainsFunc(joined.Unwrap(), isLasting)
	}
	f, ok := errors.AsType[*fault](err)
	return ok && f.lasting
}

// explain turns an error of a connection into a fault. No part of the URL reaches
// the text but what the broker or the network said.
func explain(err error) error {
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &fault{
			text: fmt.Sprintf("the node's TLS certificate does not verify: %v; check the host name in WARREN_AMQP_URL, "+
				"or name the authority that signed it with ?cacertfile=/path/ca.pem", certificate.Err),
			cause: err, lasting: true,
		}
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return &fault{text: "the node does not speak TLS on this port; use amqp:// or its TLS port, usually 5671", cause: err, lasting: true}
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return &fault{text: "WARREN_AMQP_URL is not a valid URL", cause: nil, lasting: true}
	}
	if errors.Is(err, amqp.ErrSASL) {
		return &fault{text: "the node offers no way to log in that Warren knows (PLAIN, EXTERNAL)", cause: err, lasting: true}
	}
	reply, ok := errors.AsType[*amqp.Error](err)
	switch {
	case !ok:
		return err
	case reply.Code == amqp.AccessRefused && (errors.Is(err, amqp.ErrCredentials) || strings.Contains(reply.Reason, "ACCESS_REFUSED - Login was refused")):
		return &fault{text: "the node refused the user name or password of WARREN_AMQP_URL", cause: err, lasting: true}
	case reply.Code == amqp.AccessRefused:
		return &fault{text: fmt.Sprintf("not permitted: %s; grant it with rabbitmqctl set_permissions", reply.Reason), cause: err, lasting: true}
	case reply.Code == amqp.NotAllowed:
		return &fault{text: fmt.Sprintf("the node refused the virtual host of WARREN_AMQP_URL: %s; create it with rabbitmqctl add_vhost, "+
			"or permit it with rabbitmqctl set_permissions", reply.Reason), cause: err, lasting: true}
	}
	return err
}

// An outage is a fault that goes on: it is logged when it begins, when its text
// changes and when it ends. The zero value is none. It may be used by several
// goroutines.
type outage struct {
	mu     sync.Mutex
	since  time.Time // zero: none now
	text   string
	misses int
}

// begin logs msg and err at level unless it has already, and counts.
func (o *outage) begin(log *slog.Logger, level slog.Level, msg string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.misses++
	text := strings.ReplaceAll(err.Error(), "\n", "; ") // of joined errors
	if !o.since.IsZero() && o.text == text {
		return
	}
	if o.since.IsZero() {
		o.since = time.Now()
	}
	o.text = text
	log.Log(context.Background(), level, msg, "error", text)
}

// end logs msg, how often it was tried and how long it went on, if it did.
func (o *outage) end(log *slog.Logger, msg string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return
	}
	log.Info(msg, "failures", o.misses, "duration", time.Since(o.since).Round(time.Millisecond))
	o.since, o.misses, o.text = time.Time{}, 0, ""
}
