package mail

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/warrenmq/warren/consumer"
)

// plainURL is an SMTP_URL of a server without TLS.
func plainURL(s *server) string { return "smtp://" + s.address + "?tls=none" }

var hello = &Message{To: to("bob@example.com"), Subject: "Hello", Text: "Hello, Bob.\n.\n..\nBye"}

func TestSecurityByURL(t *testing.T) {
	cert, authority := certificate(t)
	plain := newServer(t, false, nil, false)
	login := newServer(t, true, nil, false)
	startTLS := newServer(t, true, cert, false)
	startTLS.AllowInsecureAuth = false
	implicit := newServer(t, true, cert, true)

	for _, test := range []struct {
		name    string
		server  *server
		url     string // with HOST
		verdict string
		texts   []string
	}{
		{"plain", plain, "smtp://HOST?tls=none", "ack", nil},
		{"plain with a login within the machine", login, "smtp://ada:s3cret@HOST?tls=none", "ack", nil},
		{"starttls", startTLS, "smtp://ada:s3cret@HOST?cacertfile=" + authority, "ack", nil},
		{"tls", implicit, "smtps://ada:s3cret@HOST?cacertfile=" + authority, "ack", nil},
		{"starttls not offered", plain, "smtp://HOST", "unavailable", []string{"no STARTTLS", "SMTP_URL"}},
		{"tls to a plain port", plain, "smtps://HOST", "unavailable", []string{"TLS", "smtp://"}},
		{"starttls with an unknown authority", startTLS, "smtp://ada:s3cret@HOST", "unavailable", []string{"certificate", "cacertfile"}},
		{"tls with an unknown authority", implicit, "smtps://ada:s3cret@HOST", "unavailable", []string{"certificate", "cacertfile"}},
		{"wrong password", implicit, "smtps://ada:s3crex@HOST?cacertfile=" + authority, "unavailable", []string{"535", "SMTP_URL"}},
		{"no login", implicit, "smtps://HOST?cacertfile=" + authority, "unavailable", []string{"530", "SMTP_URL"}},
		{"login not offered", plain, "smtp://ada:s3cret@HOST?tls=none", "unavailable", []string{"no login", "SMTP_URL"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := len(test.server.received())
			p := newSender(t, Config{SMTPURL: strings.Replace(test.url, "HOST", test.server.address, 1)})
			err := send(t.Context(), p, "1", hello)
			checkVerdict(t, err, test.verdict, test.texts...)
			if err != nil && strings.Contains(err.Error(), "s3cre") {
				t.Errorf("got error %v, want none that shows the password", err)
			}
			want := 0
			if test.verdict == "ack" {
				want = 1
			}
			if got := len(test.server.received()) - before; got != want {
				t.Errorf("the server got %d mails, want %d", got, want)
			}
		})
	}
}

// A server that repeats what it refuses must not bring the password into an error.
func TestRefusedLoginThatIsRepeated(t *testing.T) {
	s := newServer(t, true, nil, false)
	s.setFault(func(_ int, command string) string {
		if strings.HasPrefix(command, "AUTH") {
			return "535 5.7.8 refused: " + command + " s3cret"
		}
		return ""
	})
	p := newSender(t, Config{SMTPURL: "smtp://ada:s3cret@" + s.address + "?tls=none"})
	err := send(t.Context(), p, "1", hello)
	checkVerdict(t, err, "unavailable", "535", "SMTP_URL")
	for _, secret := range []string{"s3cret", "AGFkYQBzM2NyZXQ"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("got error %v, want none with %q", err, secret)
		}
	}
}

func TestFaultAtEachStage(t *testing.T) {
	for _, at := range []struct {
		stage string // as the error names it
		words []string
		// What the server says before the mail begins is not about the mail.
		aboutMail bool
	}{
		{"greeting", []string{"greeting"}, false},
		{"EHLO", []string{"EHLO", "HELO"}, false},
		{"MAIL FROM", []string{"MAIL"}, true},
		{"RCPT TO <bob@example.com>", []string{"RCPT"}, true},
		{"DATA", []string{"DATA"}, true},
		{"end of the content", []string{"."}, true},
	} {
		// later, never and lost are the verdicts of 4xx, 5xx and a connection that is lost.
		later, never, lost := "unavailable", "unavailable", "unavailable"
		if at.aboutMail {
			later, never = "retry", "dead"
		}
		if at.stage != "MAIL FROM" && at.aboutMail {
			lost = "retry"
		}
		for _, f := range []struct {
			name, action, verdict string
			texts                 []string
		}{
			{"4xx", "451 4.3.0 try later", later, []string{"451", "4.3.0 try later"}},
			{"5xx", "554 5.7.1 never", never, []string{"554", "5.7.1 never"}},
			{"421", "421 4.4.2 going down", "unavailable", []string{"421", "4.4.2 going down"}},
			{"drop", drop, lost, []string{"SMTP server"}},
			{"stall", stall, lost, []string{"SMTP server", consumer.ErrTimeout.Error()}},
		} {
			t.Run(at.stage+" "+f.name, func(t *testing.T) {
				s := newServer(t, false, nil, false)
				s.setFault(always(f.action, at.words...))
				p := newSender(t, Config{SMTPURL: plainURL(s)})
				ctx, cancel := context.WithCancelCause(t.Context())
				var stalls sync.WaitGroup
				if f.action == stall {
					stalls.Go(func() {
						<-s.stalled
						cancel(consumer.ErrTimeout)
					})
				}
				err := send(ctx, p, "1", hello)
				stalls.Wait()
				cancel(nil)
				named := at.stage
				if f.action == stall && at.stage == "greeting" {
					named = "connect to the SMTP server" // whose end of the connection may be there first
				}
				checkVerdict(t, err, f.verdict, append(f.texts, named)...)
				if got := s.received(); len(got) != 0 {
					t.Errorf("the server took %d mails, want none", len(got))
				}

				s.setFault(nil) // the next attempt finds no remains of this one
				if err := send(t.Context(), p, "1", hello); err != nil {
					t.Errorf("after the fault: got error %v, want none", err)
				}
				if got := s.received(); len(got) != 1 {
					t.Errorf("after the fault: the server took %d mails, want 1", len(got))
				}
			})
		}
	}
}

// Replies to MAIL that are about all mails.
func TestServerThatTakesNoMail(t *testing.T) {
	for _, reply := range []string{"452 4.3.1 Insufficient system storage", "530 5.7.0 Authentication required"} {
		s := newServer(t, false, nil, false)
		s.setFault(always(reply, "MAIL"))
		p := newSender(t, Config{SMTPURL: plainURL(s)})
		checkVerdict(t, send(t.Context(), p, "1", hello), "unavailable", "MAIL FROM", reply[4:])
	}
}

func TestServerWithoutAnAddress(t *testing.T) {
	p := newSender(t, Config{SMTPURL: "smtp://mail.invalid"})
	checkVerdict(t, send(t.Context(), p, "1", hello), "unavailable", "connect to the SMTP server", "mail.invalid")
}

// A server that accepts connections and then says nothing, not even TLS.
func TestStalledHandshake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := newSender(t, Config{SMTPURL: "smtps://" + l.Addr().String()})
	ctx, cancel := context.WithCancelCause(t.Context())
	var accepting sync.WaitGroup
	accepting.Go(func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, err := c.Read(make([]byte, 1)); err != nil { // the client begins
			t.Error(err)
		}
		cancel(errors.New("took too long"))
	})
	err = send(ctx, p, "1", hello)
	accepting.Wait()
	checkVerdict(t, err, "unavailable", "took too long")
}

func TestServerDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p := newSender(t, Config{SMTPURL: "smtp://ada:s3cret@" + l.Addr().String()})
	err = send(t.Context(), p, "1", hello)
	checkVerdict(t, err, "unavailable", "connect to the SMTP server", "refused")
}

// An attempt whose time is over before it has begun to connect says nothing about the server.
func TestNoTimeLeftIsNoOutage(t *testing.T) {
	p := newSender(t, Config{SMTPURL: "smtp://127.0.0.1:1?tls=none"})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(consumer.ErrTimeout)
	checkVerdict(t, send(ctx, p, "1", hello), "retry", consumer.ErrTimeout.Error())
}

func TestOneRefusedRecipientRefusesTheMail(t *testing.T) {
	later := &smtp.SMTPError{Code: 450, EnhancedCode: smtp.EnhancedCode{4, 2, 0}, Message: "greylisted"}
	gone := &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "bye"}
	never := &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	body := &Message{To: to("a@example.com", "b@example.com"), Bcc: to("c@example.com"), Subject: "Hi", Text: "Hi"}
	for _, test := range []struct {
		name    string
		refused map[string]*smtp.SMTPError
		verdict string
		texts   []string
	}{
		{"for good", map[string]*smtp.SMTPError{"b@example.com": never}, "dead", []string{"RCPT TO <b@example.com>", "no such user"}},
		{"for now", map[string]*smtp.SMTPError{"c@example.com": later}, "retry", []string{"RCPT TO <c@example.com>", "greylisted"}},
		{"as it goes down", map[string]*smtp.SMTPError{"b@example.com": gone}, "unavailable", []string{"RCPT TO <b@example.com>", "bye"}},
		{"after too many", map[string]*smtp.SMTPError{"a@example.com": later, "b@example.com": gone}, "retry", []string{"<a@example.com>", "<b@example.com>"}},
		{"for good, as it goes down", map[string]*smtp.SMTPError{"a@example.com": never, "b@example.com": gone}, "dead", []string{"<a@example.com>", "<b@example.com>"}},
		{"both", map[string]*smtp.SMTPError{"a@example.com": later, "c@example.com": never}, "dead", []string{"<a@example.com>", "<c@example.com>"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t, false, nil, false)
			s.refused = test.refused
			p := newSender(t, Config{SMTPURL: plainURL(s)})
			err := send(t.Context(), p, "1", body)
			checkVerdict(t, err, test.verdict, test.texts...)
			if got := s.received(); len(got) != 0 {
				t.Errorf("%d mails were sent, want none: nobody gets a mail that somebody cannot get", len(got))
			}
		})
	}
}

func TestParseURL(t *testing.T) {
	_, authority := certificate(t)
	for _, test := range []struct{ url, address, user, password, helo string }{
		{"smtp://mail.example.com", "mail.example.com:587", "", "", ""},
		{"smtps://mail.example.com", "mail.example.com:465", "", "", ""},
		{"smtp://[::1]:25?tls=none&helo=worker.example.com", "[::1]:25", "", "", "worker.example.com"},
		{"smtps://ada%40example.com:p%2Fq%3A@mail.example.com/?cacertfile=" + authority, "mail.example.com:465", "ada@example.com", "p/q:", ""},
	} {
		r, err := parseURL(test.url)
		if err != nil {
			t.Errorf("%s: got error %v, want none", test.url, err)
			continue
		}
		if r.address != test.address || r.user != test.user || r.password != test.password || test.helo != "" && r.helo != test.helo || r.helo == "" {
			t.Errorf("%s: got address %q, user %q, password %q, helo %q, want %+v", test.url, r.address, r.user, r.password, r.helo, test)
		}
	}
	for _, url := range []string{
		"mail.example.com:25",
		"http://ada:s3cret@mail.example.com",
		"smtp://ada:s3cret@:25",
		"smtp://ada:s3cret%zz@mail.example.com",
		"smtp://ada:s3cret@mail.example.com:port",
		"smtp://ada:s3cret@mail.example.com/inbox",
		"smtp://ada:s3cret@mail.example.com?tls=none",
		"smtp://ada:s3cret@mail.example.com?tls=s3cret",
		"smtp://ada:s3cret@mail.example.com?s3cret=1",
		"smtps://ada:s3cret@localhost?tls=none",
		"smtps://ada:s3cret@mail.example.com?cacertfile=/no/such/file",
		"smtps://ada:s3cret@mail.example.com?cacertfile=/dev/null",
	} {
		err := Config{SMTPURL: url, From: "a@example.com"}.Validate()
		if err == nil || !strings.Contains(err.Error(), "SMTP_URL") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got error %v, want one with SMTP_URL and without the password", url, err)
		}
	}
}
