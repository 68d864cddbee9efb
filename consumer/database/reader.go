package database

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"strings"
)

// OpenReader is [Open] for whoever only reads. What it opens of SQLite cannot write,
// and leaves a file as it is that others write. On PostgreSQL that is for each
// transaction to say. readURL is as in [Config].
func OpenReader(text string, readURL func() (string, error)) (*sql.DB, error) {
	p, err := parse(text)
	if err != nil {
		return nil, err
	}
	p.reread = readURL
	return p.openReader(false)
}

// OpenTraceless does the same, and leaves no trace beside a file of SQLite.
func OpenTraceless(text string) (*sql.DB, error) {
	p, err := parse(text)
	if err != nil {
		return nil, err
	}
	return p.openReader(true)
}

// openReader opens the database to read from. If no trace is to be left and nobody uses a
// file of SQLite just now, it is read as if it could not change: SQLite would otherwise
// put its log of changes, empty, and an index of that beside it.
func (p dsn) openReader(traceless bool) (*sql.DB, error) {
	if p.config != nil {
		return p.openPostgres(*p.config), nil
	}
	settings := url.Values{"mode": {"ro"}, "_query_only": {"true"}, "_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}}
	if _, err := os.Stat(p.path + "-wal"); traceless && err != nil {
		settings.Set("immutable", "1")
	}
	return sql.Open("sqlite", "file:"+strings.ReplaceAll(p.path, "%", "%25")+"?"+settings.Encode())
}
