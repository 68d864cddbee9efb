package mail

import (
	"bufio"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// A server is a real SMTP server in this process that keeps what it takes.
type server struct {
	*smtp.Server
	address string
	closed  chan struct{}
	stalled chan struct{} // gets a value when a stall begins

	mu       sync.Mutex
	mails    []received
	sessions int
	refused  map[string]*smtp.SMTPError // by recipient
	fault    fault
}

type received struct {
	from    string
	to      []string
	content []byte
}

// A fault decides what happens at a command, such as "MAIL FROM:<...>", of the n-th
// session from 1: nothing special if it returns "", or else drop, stall, or the
// reply that it returns in place of the server's own. The command before the first
// is "greeting"; "." is the end of the content.
type fault func(n int, command string) string

const (
	drop  = "drop"  // the connection is closed
	stall = "stall" // no answer, ever
)

// always is a fault at the commands that begin with one of the words.
func always(action string, words ...string) fault {
	return func(_ int, command string) string {
		for _, w := range words {
			if strings.HasPrefix(command, w) && (w != "." || command == ".") {
				return action
			}
		}
		return ""
	}
}

// newServer starts a server that wants user "ada" with password "s3cret" if login
// is set, offers STARTTLS if cert is set, or speaks TLS from the start.
func newServer(t testing.TB, login bool, cert *tls.Certificate, implicitTLS bool) *server {
	t.Helper()
	s := &server{closed: make(chan struct{}), stalled: make(chan struct{}, 10), refused: map[string]*smtp.SMTPError{}}
	s.Server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		if login {
			return &loginSession{session: session{server: s}}, nil
		}
		return &session{server: s}, nil
	}))
	s.Domain = "mail.test"
	s.AllowInsecureAuth = true
	s.ErrorLog = log.New(io.Discard, "", 0)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	secrets := &tls.Config{}
	if cert != nil {
		secrets.Certificates = []tls.Certificate{*cert}
	}
	if implicitTLS {
		listener = tls.NewListener(listener, secrets)
	} else if cert != nil {
		s.TLSConfig = secrets
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(&faultyListener{listener, s}) })
	t.Cleanup(func() {
		close(s.closed)
		_ = s.Close()
		serving.Wait()
	})
	return s
}

func (s *server) setFault(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *server) received() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]received(nil), s.mails...)
}

// sessionCount is how many sessions there have been.
func (s *server) sessionCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

// certificate returns one for 127.0.0.1 and a file with the authority that it is
// signed by: itself.
func certificate(t testing.TB) (*tls.Certificate, string) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	s.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return &s.TLS.Certificates[0], file
}

type session struct {
	server *server
	mail   received
}

func (s *session) Reset()        { s.mail = received{} }
func (s *session) Logout() error { return nil }

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.mail = received{from: from}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if err := s.server.refused[to]; err != nil {
		return err
	}
	s.mail.to = append(s.mail.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mail.content = content
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.mails = append(s.server.mails, s.mail)
	return nil
}

// A loginSession takes no mail before a login.
type loginSession struct {
	session
	loggedIn bool
}

func (s *loginSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *loginSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "ada" || password != "s3cret" {
			return smtp.ErrAuthFailed
		}
		s.loggedIn = true
		return nil
	}), nil
}

func (s *loginSession) Mail(from string, o *smtp.MailOptions) error {
	if !s.loggedIn {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	}
	return s.session.Mail(from, o)
}

type faultyListener struct {
	net.Listener
	server *server
}

func (l *faultyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	l.server.sessions++
	return &faultyConn{Conn: c, server: l.server, n: l.server.sessions, in: bufio.NewReader(c)}, nil
}

// A faultyConn lets the server see the client's lines one by one, but for those at
// which there is a fault.
type faultyConn struct {
	net.Conn
	server  *server
	n       int
	in      *bufio.Reader
	pending []byte
	greeted bool
	secret  bool // STARTTLS was said; from here on there are no lines to see
}

// at applies the fault at a command, and tells whether there is one.
func (c *faultyConn) at(command string) bool {
	c.server.mu.Lock()
	f := c.server.fault
	c.server.mu.Unlock()
	if f == nil {
		return false
	}
	switch action := f(c.n, command); action {
	case "":
		return false
	case drop:
		c.Close()
	case stall:
		c.server.stalled <- struct{}{}
		<-c.server.closed
	default:
		_, _ = io.WriteString(c.Conn, action+"\r\n")
	}
	return true
}

func (c *faultyConn) Read(p []byte) (int, error) {
	for len(c.pending) == 0 {
		if c.secret {
			return c.in.Read(p)
		}
		line, err := c.in.ReadBytes('\n')
		if len(line) == 0 {
			return 0, err
		}
		if !c.at(strings.TrimRight(string(line), "\r\n")) {
			c.pending = line
			c.secret = string(line) == "STARTTLS\r\n"
		}
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

func (c *faultyConn) Write(p []byte) (int, error) {
	if !c.greeted {
		c.greeted = true
		if c.at("greeting") {
			return len(p), nil
		}
	}
	return c.Conn.Write(p)
}
