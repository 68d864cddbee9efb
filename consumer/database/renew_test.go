package database

import (
	"errors"
	"testing"
)

// A connection that is about to be made has the user and password that there are now; if
// they cannot be read, those of before.
func TestConnectionsAreMadeWithThePasswordOfNow(t *testing.T) {
	t.Parallel()
	p, err := parse("postgres://warren:first@localhost/shop")
	if err != nil {
		t.Fatal(err)
	}
	var now string
	var fault error
	p.reread = func() (string, error) { return now, fault }
	for _, test := range []struct {
		url            string
		fault          error
		user, password string
	}{
		{"postgres://warren:first@localhost/shop", nil, "warren", "first"},
		{"postgres://warren2:second@localhost/shop", nil, "warren2", "second"},
		{"", errors.New("no such file"), "warren", "first"},
		{"not a URL", nil, "warren", "first"},
		{"sqlite:/tmp/x.db", nil, "warren", "first"},
	} {
		now, fault = test.url, test.fault
		c := p.config.Copy()
		if err := p.renew(t.Context(), c); err != nil || c.User != test.user || c.Password != test.password || c.Host != "localhost" {
			t.Errorf("%q (%v): got %s:%s at %s and error %v, want %s:%s", test.url, test.fault, c.User, c.Password, c.Host, err, test.user, test.password)
		}
	}
}
