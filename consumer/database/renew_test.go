package database

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/warrenmq/warren/internal/pgtest"
)

// The server finds out soon that the machine of a connection is gone, and sooner for the
// relay. One that refuses the settings is used without them.
func TestTheServerNoticesSoonWhoIsGone(t *testing.T) {
	t.Parallel()
	settings := func(q interface {
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}) (idle, timeout string) {
		if err := q.QueryRowContext(t.Context(), "SELECT current_setting('tcp_keepalives_idle'), current_setting('tcp_user_timeout')").Scan(&idle, &timeout); err != nil {
			t.Fatal(err)
		}
		return idle, timeout
	}
	d, err := New(Config{URL: pgtest.URL(t)}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	tx, err := d.Begin(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if idle, timeout := settings(tx.SQL()); idle != "10" || timeout != "60000" {
		t.Errorf("a transaction: got %s and %s, want 10 and 60000", idle, timeout)
	}
	r, err := d.lead(t.Context(), progress)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if idle, timeout := settings(r.conn); idle != "10" || timeout != "25000" {
		t.Errorf("the relay: got %s and %s, want 10 and 25000", idle, timeout)
	}

	conn, err := pgconn.Connect(t.Context(), pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if err := conn.Exec(t.Context(), "BEGIN; SELECT 1 / 0").Close(); err == nil {
		t.Fatal("got no error of the division")
	}
	// In a transaction that has failed, the server refuses all but its end.
	if err := noticeSoon(t.Context(), conn); err != nil || conn.IsClosed() {
		t.Errorf("got %v, want a connection that goes on", err)
	}
}

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
