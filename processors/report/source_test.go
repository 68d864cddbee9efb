package report

import (
	"errors"
	"io"
	"log/slog"
	"net/url"
	"testing"

	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
	"github.com/warrenmq/warren/processors/internal/statement"
	"github.com/warrenmq/warren/processors/registry"
)

// A stalling encoder has the database get nothing more at the first row, which it refuses.
type stalling struct{ to *rabbittest.Proxy }

var errNoRoom = errors.New("no room")

func (s stalling) header([]string) error { return nil }
func (s stalling) end() error            { return nil }
func (s stalling) row([]cell) error {
	s.to.Stall(rabbittest.ToNode)
	return errNoRoom
}

// A server that answers nothing any more does not keep the slot of a report that is over.
func TestAFrozenServerKeepsNoSlot(t *testing.T) {
	good, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	p := rabbittest.NewProxy(t, good.Host)
	good.Host = p.Addr
	s, err := newSource(good.String(), nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.db.Close()
	if _, err := s.read(t.Context(), &statement.Bound{SQL: "SELECT 1 AS n"}, stalling{p}); !errors.Is(err, errNoRoom) {
		t.Errorf("got error %v, want %v", err, errNoRoom)
	}
}

// Without a SOURCE_URL, connections are made with the password of the daemon's database
// that there is now.
func TestReportsFollowThePasswordOfTheDatabase(t *testing.T) {
	owner, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	execute(t, owner.String(), "CREATE ROLE reader LOGIN PASSWORD 'first'")
	as := func(password string) string {
		u := *owner
		u.User = url.UserPassword("reader", password)
		return u.String()
	}
	cfg := Config{Reports: reports(t, map[string]string{"one": "SELECT 1 AS one"}), Output: t.TempDir(), AttachmentMaxBytes: 1}
	p, err := cfg.Open(registry.Queue{
		Name: "reports", Concurrency: 1, DatabaseURL: as("first"), ReadDatabaseURL: func() (string, error) { return as("second"), nil },
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.(io.Closer).Close() }()
	execute(t, owner.String(), "ALTER ROLE reader PASSWORD 'second'")
	if err := p.(*processor).source.db.PingContext(t.Context()); err != nil {
		t.Errorf("got %v, want a connection with the second password", err)
	}
}
