package report

import (
	"errors"
	"net/url"
	"testing"

	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
	"github.com/warrenmq/warren/processors/internal/statement"
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
	s, err := newSource(good.String(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.db.Close()
	if _, err := s.read(t.Context(), &statement.Bound{SQL: "SELECT 1 AS n"}, stalling{p}); !errors.Is(err, errNoRoom) {
		t.Errorf("got error %v, want %v", err, errNoRoom)
	}
}
