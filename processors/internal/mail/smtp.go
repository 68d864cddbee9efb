package mail

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/certs"
)

// connectTimeout bounds the making of a TCP connection. All that follows is bounded
// by the attempt's context.
const connectTimeout = 30 * time.Second

// A relay is the server that takes the mails, and how to speak to it.
type relay struct {
	host, address  string
	helo           string
	implicitTLS    bool
	startTLS       bool
	tls            *tls.Config
	user, password string // empty user: no login
}

// parseURL reads SMTP_URL; see Config. No part of it reaches the error.
func parseURL(value string) (*relay, error) {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("SMTP_URL is not of the form smtp://user:password@host:587 or smtps://user:password@host:465; percent-encode reserved characters in user and password")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("SMTP_URL: its parameters are not of the form ?name=value&name=value")
	}
	r := &relay{
		host:        u.Hostname(),
		implicitTLS: u.Scheme == "smtps",
		startTLS:    u.Scheme == "smtp",
		user:        u.User.Username(),
	}
	r.password, _ = u.User.Password()
	port := u.Port()
	switch {
	case port != "":
	case r.implicitTLS:
		port = "465"
	default:
		port = "587"
	}
	r.address = net.JoinHostPort(r.host, port)
	r.tls = &tls.Config{ServerName: r.host, MinVersion: tls.VersionTLS12}
	if r.helo, err = os.Hostname(); err != nil {
		return nil, fmt.Errorf("SMTP_URL: the host has no name to greet the server with, add ?helo=name: %w", err)
	}
	for name, values := range query {
		switch v := values[len(values)-1]; {
		case name == "tls" && v == "none" && r.startTLS:
			r.startTLS = false
			if r.user != "" && !isThisMachine(r.host) {
				return nil, errors.New("SMTP_URL has a password and ?tls=none: it would cross the network for all to read; remove one of them")
			}
		case name == "cacertfile":
			if r.tls.RootCAs, err = readAuthorities(v); err != nil {
				return nil, fmt.Errorf("SMTP_URL: cacertfile: %w", err)
			}
		case name == "helo" && v != "" && !strings.ContainsFunc(v, notPrintableASCII):
			r.helo = v
		default:
			return nil, errors.New("SMTP_URL: its parameters may be tls=none (with smtp://), cacertfile=/path/ca.pem and helo=name")
		}
	}
	return r, nil
}

func isThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func readAuthorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := certs.Pool(pem)
	if err != nil {
		return nil, fmt.Errorf("%s %w", file, err)
	}
	return pool, nil
}

// A conn is a session with the relay. It serves one mail at a time.
type conn struct {
	*smtp.Client
	net net.Conn // the bare connection: closing it ends whatever goes on
}

// bounded runs f and closes the connection as soon as ctx ends, which ends f. An
// error of f closes it too: what the server takes the next command for would be a
// guess. What f has achieved counts even if ctx has ended meanwhile.
func (c *conn) bounded(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { c.net.Close() })
	err := f()
	if ended := !stop(); ended && err != nil {
		err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	if err != nil {
		c.net.Close()
	}
	return err
}

// dial opens a session, ready for a mail. It blocks until then or until ctx ends.
// What goes wrong here is not the fault of a mail, and keeps all of them: every error
// is marked as unavailable.
func (r *relay) dial(ctx context.Context) (*conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	bare, err := dialer.DialContext(ctx, "tcp", r.address)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	if err != nil {
		return nil, consumer.Unavailable(fmt.Errorf("connect to the SMTP server: %w", err))
	}
	c := &conn{net: bare}
	if err := c.bounded(ctx, func() error { return r.open(ctx, c) }); err != nil {
		return nil, consumer.Unavailable(fmt.Errorf("connect to the SMTP server %s: %w", r.address, err))
	}
	return c, nil
}

// open takes c from a bare connection to a session.
func (r *relay) open(ctx context.Context, c *conn) (err error) {
	if r.implicitTLS {
		secure := tls.Client(c.net, r.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return explainTLS(err)
		}
		c.Client, err = smtp.NewClient(secure, r.host)
	} else {
		c.Client, err = smtp.NewClient(c.net, r.host)
	}
	if err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	c.SkipSMTPUTF8(true) // our mails do without, so that no server on their way needs it
	if err := c.Hello(r.helo); err != nil {
		return err // it says EHLO
	}
	if r.startTLS {
		if offered, _ := c.Extension("STARTTLS"); !offered {
			return errors.New("it offers no STARTTLS: use its TLS port with smtps://, or ?tls=none in SMTP_URL if plain text will do")
		}
		if err := c.StartTLS(r.tls); err != nil {
			return explainTLS(err)
		}
	}
	if r.user == "" {
		return nil
	}
	return r.login(c)
}

// login is only reached over TLS or within this machine, so that the password may
// be sent as it is.
func (r *relay) login(c *conn) error {
	_, offered := c.Extension("AUTH")
	mechanisms := strings.Fields(offered)
	for _, m := range []struct {
		name string
		auth smtp.Auth
	}{
		{"PLAIN", smtp.PlainAuth("", r.user, r.password, r.host, true)},
		{"LOGIN", smtp.LoginAuth(r.user, r.password, r.host, true)},
		{"SCRAM-SHA-256", smtp.ScramSHA256Auth(r.user, r.password)},
		{"CRAM-MD5", smtp.CRAMMD5Auth(r.user, r.password)},
	} {
		if !slices.Contains(mechanisms, m.name) {
			continue
		}
		err := c.Auth(m.auth)
		if reply, ok := errors.AsType[*textproto.Error](err); ok {
			// Not the reply's text: some servers repeat the line that they refuse.
			return fmt.Errorf("it refused the login with reply %d: check user and password in SMTP_URL", reply.Code)
		}
		if err != nil {
			return fmt.Errorf("AUTH: %w", err)
		}
		return nil
	}
	return fmt.Errorf("it offers no login that Warren knows, but %q: correct SMTP_URL, which has a user", offered)
}

func explainTLS(err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("its certificate does not verify: %w; correct the host in SMTP_URL, or name the authority with ?cacertfile=/path/ca.pem", err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("TLS: %w; use smtp:// in SMTP_URL for a port that begins without TLS", err)
	}
	return fmt.Errorf("TLS: %w", err)
}

// begin names the sender of the next mail. As long as it fails, nothing was sent.
func (c *conn) begin(m *mail) error {
	if takes8Bit, _ := c.Extension("8BITMIME"); m.eightBit && !takes8Bit {
		return consumer.Permanent(errors.New("an attached message has characters beyond ASCII, and the SMTP server does not offer 8BITMIME: set its content_type to application/octet-stream"))
	}
	err := stage("MAIL FROM", c.Mail("<"+m.from+">"))
	if reply, ok := errors.AsType[*textproto.Error](err); isGone(err) || ok && reply.Code == codeFull {
		return consumer.Unavailable(err) // of this mail the server knows no more than the sender
	}
	return err
}

// finish sends the rest of the mail that has begun. The server has taken it if and
// only if the error is nil, but for a connection lost at the very end.
func (c *conn) finish(m *mail) error {
	// All recipients are named, so that the error shows every one that is refused.
	// If one of them is refused for good, the joined error is permanent.
	var refused []error
	for _, r := range m.recipients {
		if err := c.Rcpt("<" + r + ">"); err != nil {
			refused = append(refused, stage("RCPT TO <"+r+">", err))
			if isGone(err) {
				break
			}
		}
	}
	err := errors.Join(refused...)
	if len(refused) > 1 && consumer.VerdictOf(err) == "unavailable" {
		// It may have ended the session for what it had refused before, and would again:
		// that is an attempt.
		return consumer.RetryAfter(err, 0)
	}
	if err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return stage("DATA", err)
	}
	if _, err := m.WriteTo(w); err != nil {
		return stage("content", err)
	}
	return stage("end of the content", w.Close())
}

// Replies that are about the server rather than the mail.
const (
	codeGoingDown = 421 // at any time
	codeFull      = 452 // to MAIL; later, it has too many recipients
)

// stage turns the error of one step of a mail into that of the attempt.
func stage(name string, err error) error {
	reply, ok := errors.AsType[*textproto.Error](err)
	switch {
	case err == nil:
		return nil
	case !ok:
		return fmt.Errorf("the connection to the SMTP server was lost at %s: %w", name, err)
	case isLoginWanted(reply.Code):
		return consumer.Unavailable(fmt.Errorf("the SMTP server wants another login at %s: %w: correct user and password in SMTP_URL", name, err))
	case reply.Code == codeGoingDown:
		return consumer.Unavailable(fmt.Errorf("the SMTP server ended the session at %s: %w", name, err))
	case reply.Code >= 500:
		return consumer.Permanent(fmt.Errorf("the SMTP server refused the mail at %s: %w", name, err))
	default:
		return fmt.Errorf("the SMTP server refused the mail for now at %s: %w", name, err)
	}
}

// isLoginWanted tells the 5xx replies to a mail that are about the session (RFC
// 4954): the fault is the configuration's, and every mail's.
func isLoginWanted(code int) bool { return code == 530 || code == 534 || code == 535 || code == 538 }

// isGone tells whether err means that the server has ended the session: the
// connection is lost, or reply 421 announces that.
func isGone(err error) bool {
	reply, ok := errors.AsType[*textproto.Error](err)
	return err != nil && (!ok || reply.Code == codeGoingDown)
}

// quit ends a session politely, without waiting long for an answer.
func (c *conn) quit() {
	defer c.net.Close()
	if c.net.SetDeadline(time.Now().Add(quitTimeout)) == nil {
		_ = c.Quit() // the server may have gone; either way the session is over
	}
}

const quitTimeout = time.Second
