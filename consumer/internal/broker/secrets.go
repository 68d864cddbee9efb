package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/outage"
)

// Secrets are the passwords and certificates that nodes are connected to with. They are
// read anew for each connection, so that new ones need no restart. What has worked last is
// kept: while what is there now does not work, that is used on. It may be used by any
// number of goroutines.
type Secrets struct {
	urls   func() ([]string, error) // of the nodes, as they are now; nil: they stay what they are
	log    *slog.Logger
	outage outage.Outage

	mu      sync.Mutex
	worked  map[string]login // last, by node
	refused map[string]login // as well, while those that worked last still do
}

// NewSecrets makes Secrets of a function that reads the URLs of the nodes from source. Nil
// means that they stay what they are; the files that they name are read anew all the same.
func NewSecrets(urls func() ([]string, error), source string, log *slog.Logger) *Secrets {
	if source != "" {
		log = log.With("source", source)
	}
	return &Secrets{urls: urls, log: log, worked: make(map[string]login), refused: make(map[string]login)}
}

// A login is all that a connection to a node is made with. Two that are equal are the same.
type login struct {
	url                           string
	authorities, certificate, key string // in PEM form
}

// IsOutdated tells whether another login than this connection's has worked since.
func (c *Conn) IsOutdated() bool {
	if c.dialer.Secrets == nil {
		return false
	}
	last, known := c.dialer.Secrets.last(c.URL)
	return known && last != c.login
}

// Dial connects to a node. It blocks for connectTimeout at most, twice that if the node
// refuses what it is given now, or until ctx ends. No part of the URL is in the error but
// what the broker or the network said.
func (d Dialer) Dial(ctx context.Context, nodeURL string, o Options) (*Conn, error) {
	s := d.Secrets
	if s == nil {
		return d.dialNow(ctx, nodeURL, o)
	}
	now, err := s.read(nodeURL)
	last, known := s.last(nodeURL)
	if err == nil && !s.isRefused(now) {
		c, err := d.dial(ctx, now, o)
		if err == nil {
			s.keep(now)
			return c, nil
		}
		if !known || last == now || !IsLasting(err) && !errors.Is(err, errUnsaid) || ctx.Err() != nil {
			return nil, err
		}
		s.refuse(now, err)
	}
	if !known {
		return nil, err
	}
	if err != nil {
		s.begin(nodeURL, err)
	}
	c, lastErr := d.dial(ctx, last, o)
	if lastErr != nil {
		s.refuse(login{url: nodeURL}, nil) // it may be the new one's turn
	}
	return c, lastErr
}

// Renewed returns an error if the node does not take what is there now.
func (d Dialer) Renewed(ctx context.Context, nodeURL string) error {
	c, err := d.dialNow(ctx, nodeURL, Options{Purpose: "look"})
	if err == nil {
		c.Close()
	}
	return err
}

// dialNow connects with what is there now, and nothing else.
func (d Dialer) dialNow(ctx context.Context, nodeURL string, o Options) (*Conn, error) {
	now, err := d.Secrets.read(nodeURL)
	if err != nil {
		return nil, err
	}
	c, err := d.dial(ctx, now, o)
	if err == nil && d.Secrets != nil {
		d.Secrets.keep(now)
	}
	return c, err
}

// read returns the login that there is now for a node.
func (s *Secrets) read(nodeURL string) (login, error) {
	if s != nil && s.urls != nil {
		urls, err := s.urls()
		if err != nil {
			return login{}, &Fault{Text: err.Error(), Cause: err, Lasting: true}
		}
		same := func(u string) bool { return NodeName(u) == NodeName(nodeURL) }
		if i := slices.IndexFunc(urls, same); i >= 0 && !slices.Contains(urls, nodeURL) {
			nodeURL = urls[i]
		}
	}
	l := login{url: nodeURL}
	uri, err := amqp.ParseURI(nodeURL)
	if err != nil || uri.Scheme != "amqps" {
		return l, Explain(err)
	}
	for _, file := range []struct {
		parameter, path string
		content         *string
	}{{"cacertfile", uri.CACertFile, &l.authorities}, {"certfile", uri.CertFile, &l.certificate}, {"keyfile", uri.KeyFile, &l.key}} {
		if file.path == "" {
			continue
		}
		content, err := os.ReadFile(file.path)
		if err != nil {
			return l, &Fault{Text: fmt.Sprintf("?%s= of WARREN_AMQP_URL: %v; the file must be there and readable for the daemon", file.parameter, err), Cause: err, Lasting: true}
		}
		*file.content = string(content)
	}
	return l, nil
}

func (s *Secrets) last(nodeURL string) (last login, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known = s.worked[NodeName(nodeURL)]
	return last, known
}

// keep takes note of a login that has worked.
func (s *Secrets) keep(l login) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worked[NodeName(l.url)] = l
	delete(s.refused, NodeName(l.url))
	s.outage.End(s.logOf(l.url), "new passwords and certificates work")
}

// refuse takes note of a login that the node refuses because of err, in place of another.
func (s *Secrets) refuse(l login, err error) {
	s.mu.Lock()
	s.refused[NodeName(l.url)] = l
	s.mu.Unlock()
	if err != nil {
		s.begin(l.url, err)
	}
}

// isRefused tells whether a login is the one that was refused last. To be refused takes
// seconds.
func (s *Secrets) isRefused(l login) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused[NodeName(l.url)] == l
}

func (s *Secrets) begin(nodeURL string, err error) {
	s.outage.Begin(s.logOf(nodeURL), slog.LevelError, "new passwords or certificates do not work, the last ones that did are used on", err)
}

func (s *Secrets) logOf(nodeURL string) *slog.Logger { return s.log.With("node", NodeName(nodeURL)) }

// secured returns the TLS that the login asks for, nil for none, and its URL without it:
// the library would have it above the door.
func (l login) secured() (plainURL string, _ *tls.Config, err error) {
	uri, err := amqp.ParseURI(l.url)
	if err != nil || uri.Scheme != "amqps" {
		return l.url, nil, err
	}
	u, err := url.Parse(l.url)
	if err != nil {
		return "", nil, err
	}
	u.Scheme, u.Host = "amqp", net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port))
	config := &tls.Config{ServerName: cmp.Or(uri.ServerName, uri.Host), MinVersion: tls.VersionTLS12}
	unusable := func(parameter, path string, err error) error {
		return &Fault{Text: fmt.Sprintf("?%s= of WARREN_AMQP_URL: %s: %v", parameter, path, err), Cause: err, Lasting: true}
	}
	if uri.CACertFile != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(l.authorities)) {
			return "", nil, unusable("cacertfile", uri.CACertFile, errors.New("there is no certificate in it in PEM form (-----BEGIN CERTIFICATE-----)"))
		}
	}
	if uri.CertFile != "" && uri.KeyFile != "" {
		certificate, err := tls.X509KeyPair([]byte(l.certificate), []byte(l.key))
		if err != nil {
			return "", nil, unusable("certfile", uri.CertFile, fmt.Errorf("it does not go with ?keyfile=%s: %w; both in PEM form, the key of that certificate without a passphrase", uri.KeyFile, err))
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return u.String(), config, nil
}

// errUnsaid is why a node may have refused a login: it has ended the connection without a
// word that has arrived.
var errUnsaid = errors.New("the node ended the connection before it was open")

// explain returns the fault that err of a connection with this login is. shaken tells
// whether the handshake of TLS was over: of version 1.3, a node refuses the client's
// certificate only then, and its alert may be lost with the connection.
func (l login) explain(err error, shaken bool) error {
	ours := "there is none: name one with ?certfile=/path/cert.pem&keyfile=/path/key.pem"
	if uri, parse := amqp.ParseURI(l.url); parse == nil && uri.CertFile != "" {
		ours = uri.CertFile + ", which must be signed by an authority that the node trusts, and not have expired"
	}
	if _, alert, refused := strings.Cut(err.Error(), "remote error: tls: "); refused { // the library has it as text alone
		return &Fault{Text: fmt.Sprintf("the node refused the TLS certificate of this client (%s): %s", strings.Trim(alert, `"`), ours), Cause: err, Lasting: true}
	}
	explained := Explain(err)
	if !shaken || l.certificate == "" || IsLasting(explained) {
		return explained
	}
	return &Fault{
		Text:  fmt.Sprintf("%v (%v); it may have refused the TLS certificate of this client: %s", errUnsaid, err, ours),
		Cause: fmt.Errorf("%w: %w", errUnsaid, err),
	}
}
