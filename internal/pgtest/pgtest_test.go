package pgtest

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestDataSurvivesTheEndOfTheServer(t *testing.T) {
	s := Start(t)
	query := func(statement string) (n int) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), s.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if err := conn.QueryRow(t.Context(), statement).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := s.execute(t.Context(), "CREATE TABLE kept AS SELECT 42 AS n"); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){s.Stop, s.Kill} {
		end()
		if conn, err := pgx.Connect(t.Context(), s.URL()); err == nil {
			conn.Close(t.Context())
			t.Error("a server that was ended accepts connections")
		}
		s.Restart(t)
		if got := query("SELECT n FROM kept"); got != 42 {
			t.Errorf("got %d after a restart, want 42", got)
		}
	}
}

func TestEachTestHasItsOwnDatabase(t *testing.T) {
	a, b := URL(t), URL(t)
	for _, url := range []string{a, b} { // the second would find the table of the first
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "CREATE TABLE mine (n int)"); err != nil {
			t.Errorf("%v", err)
		}
		conn.Close(t.Context())
	}
}
