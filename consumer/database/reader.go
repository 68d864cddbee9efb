package database

import (
	"database/sql"
	"fmt"
	"net/url"
	"strings"
)

// OpenReader is [Open] for whoever only reads. What it opens of SQLite cannot write,
// and leaves a file as it is that others write. On PostgreSQL that is for each
// transaction to say.
func OpenReader(text string) (*sql.DB, error) {
	p, err := parse(text)
	if err != nil {
		return nil, err
	}
	if p.config != nil {
		return p.open()
	}
	settings := url.Values{"mode": {"ro"}, "_query_only": {"true"}, "_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}}
	return sql.Open("sqlite", "file:"+strings.ReplaceAll(p.path, "%", "%25")+"?"+settings.Encode())
}
