package consumer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

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
