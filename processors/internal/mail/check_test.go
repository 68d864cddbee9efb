package mail

import (
	"strings"
	"testing"
)

func TestCheckGreetsAndLogsIn(t *testing.T) {
	s := newServer(t, true, nil, false)
	cfg := Config{SMTPURL: "smtp://ada:s3cret@" + s.address + "?tls=none", From: "shop@example.com"}
	if got, err := cfg.Check(t.Context()); err != nil || got != "the SMTP server "+s.address+" takes the login" {
		t.Errorf("got %q and error %v, want that it takes the login", got, err)
	}
	cfg.SMTPURL = "smtp://ada:0utd4ted@" + s.address + "?tls=none"
	if _, err := cfg.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "refused the login") || strings.Contains(err.Error(), "0utd4ted") {
		t.Errorf("got error %v, want that the login is refused", err)
	}
	if got := s.received(); len(got) > 0 {
		t.Errorf("the check has sent %q", got)
	}
}
