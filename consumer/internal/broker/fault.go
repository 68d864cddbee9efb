package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Fault is an error in an operator's words: what is wrong and what settles it.
type Fault struct {
	Text  string
	Cause error
	// Lasting is true if waiting does not help: somebody has to change something.
	Lasting bool
}

func (f *Fault) Error() string { return f.Text }
func (f *Fault) Unwrap() error { return f.Cause }

// IsLasting tells whether err, or one of those it joins, stays until somebody
// changes something.
func IsLasting(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return slices.ContainsFunc(joined.Unwrap(), IsLasting)
	}
	f, ok := errors.AsType[*Fault](err)
	return ok && f.Lasting
}

// IsFatal tells whether the broker has ended a connection because of a fault of its own,
// such as a queue without a leader.
func IsFatal(err error) bool {
	reply, ok := errors.AsType[*amqp.Error](err)
	return ok && reply.Code == amqp.InternalError
}

// Explain turns an error of a connection into a fault. No part of the URL reaches
// the text but what the broker or the network said.
func Explain(err error) error {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return &Fault{
			Text:  fmt.Sprintf("the node's TLS certificate is not valid now: %v; have it renewed, or set the clock of this host", invalid),
			Cause: err, Lasting: true,
		}
	}
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &Fault{
			Text: fmt.Sprintf("the node's TLS certificate does not verify: %v; check the host name in WARREN_AMQP_URL, "+
				"or name the authority that signed it with ?cacertfile=/path/ca.pem", certificate.Err),
			Cause: err, Lasting: true,
		}
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return &Fault{Text: "the node does not speak TLS on this port; use amqp:// or its TLS port, usually 5671", Cause: err, Lasting: true}
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return &Fault{Text: "WARREN_AMQP_URL is not a valid URL", Cause: nil, Lasting: true}
	}
	if errors.Is(err, amqp.ErrSASL) {
		return &Fault{Text: "the node offers no way to log in that Warren knows (PLAIN, EXTERNAL)", Cause: err, Lasting: true}
	}
	reply, ok := errors.AsType[*amqp.Error](err)
	switch {
	case !ok:
		return err
	case errors.Is(err, amqp.ErrVhost): // a node that refuses one says so
		return &Fault{Text: "the connection was lost while its virtual host was opened", Cause: err}
	case reply.Code == amqp.AccessRefused && (errors.Is(err, amqp.ErrCredentials) || strings.Contains(reply.Reason, "ACCESS_REFUSED - Login was refused")):
		return &Fault{Text: "the node refused the user name or password of WARREN_AMQP_URL", Cause: err, Lasting: true}
	case reply.Code == amqp.AccessRefused && strings.Contains(reply.Reason, "exclusive use"), reply.Code == amqp.ResourceLocked:
		return &Fault{Text: fmt.Sprintf("another consumer has the queue for itself: %s; stop it, or have it consume without exclusive", reply.Reason), Cause: err}
	case reply.Code == amqp.AccessRefused:
		return &Fault{Text: fmt.Sprintf("not permitted: %s; grant it with rabbitmqctl set_permissions", reply.Reason), Cause: err, Lasting: true}
	case reply.Code == amqp.InternalError:
		return &Fault{Text: fmt.Sprintf("the broker has failed to do it (%s); a queue may be without a leader: see which of its nodes are down", reply.Reason), Cause: err}
	case reply.Code == amqp.NotAllowed:
		return &Fault{Text: fmt.Sprintf("the node refused the virtual host of WARREN_AMQP_URL: %s; create it with rabbitmqctl add_vhost, "+
			"or permit it with rabbitmqctl set_permissions", reply.Reason), Cause: err, Lasting: true}
	case reply.Code == amqp.PreconditionFailed && isAnothersName(reply):
		return &Fault{Text: fmt.Sprintf("the broker knows this process by another name: %s; set WARREN_AMQP_USER to that name", reply.Reason), Cause: err, Lasting: true}
	}
	return err
}
