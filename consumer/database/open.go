package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // the driver called sqlite
)

const (
	// connectTimeout is for a URL that has no connect_timeout of its own.
	connectTimeout = 5 * time.Second
	// busyTimeout is how long SQLite waits for another process that writes.
	busyTimeout = 5 * time.Second
)

// Open makes the pool of a URL: postgres://user:password@host/name, or
// sqlite:/path/of/the/file. It connects to nothing yet. The caller closes the pool,
// and bounds it if there may be many users of it. No error of Open holds the URL;
// see [Explain] for those of the pool.
//
// A transaction on SQLite locks out all other writers from its beginning on.
func Open(url string) (*sql.DB, error) {
	p, err := parse(url)
	if err != nil {
		return nil, err
	}
	return p.open()
}

// A dsn is where a database is.
type dsn struct {
	dialect *dialect
	name    string          // for errors and logs: without user and password
	config  *pgx.ConnConfig // of PostgreSQL
	path    string          // of SQLite
	reread  func() (string, error)
}

var errURL = errors.New("is not the URL of a database: write postgres://user:password@host:5432/name, special characters " +
	"percent-encoded, or sqlite:/path/of/the/file")

func parse(text string) (dsn, error) {
	scheme, rest, _ := strings.Cut(text, ":")
	switch scheme {
	case "postgres", "postgresql":
		return parsePostgres(text)
	case "sqlite":
		return parseSQLite(rest)
	}
	return dsn{}, errURL
}

func parsePostgres(text string) (dsn, error) {
	u, err := url.Parse(text)
	// What follows an unescaped / ? or # is no longer taken for the password.
	if err != nil || u.Host == "" || strings.Contains(u.EscapedPath()+u.Fragment, "@") {
		return dsn{}, errURL
	}
	config, err := pgx.ParseConfig(text)
	if err != nil {
		// pgx's own words may hold the password.
		return dsn{}, errors.New("is not a URL that PostgreSQL understands; look at its host, port and parameters, such as sslmode")
	}
	if !u.Query().Has("connect_timeout") {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "warren"
	}
	name := fmt.Sprintf("database %s at %s", config.Database, net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))))
	return dsn{dialect: postgres, name: name, config: config}, nil
}

func parseSQLite(path string) (dsn, error) {
	if path = strings.TrimPrefix(path, "//"); path == "" || strings.ContainsAny(path, "?#") || strings.HasPrefix(path, ":") {
		return dsn{}, errors.New("is not the URL of a database: after sqlite: stands the path of a file, without ? and #, such as sqlite:/var/lib/warren/warren.db")
	}
	return dsn{dialect: sqlite, name: "database " + path, path: path}, nil
}

func (p dsn) open() (*sql.DB, error) {
	if p.config != nil {
		config := *p.config
		config.AfterConnect = noticeSoon
		return p.openPostgres(config), nil
	}
	settings := url.Values{"_txlock": {"immediate"}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(FULL)", // what is committed must survive a power cut: it is acknowledged then
		"foreign_keys(ON)",
	}}
	return sql.Open("sqlite", p.path+"?"+settings.Encode())
}

func (p dsn) openPostgres(config pgx.ConnConfig) *sql.DB {
	return stdlib.OpenDB(config, stdlib.OptionBeforeConnect(p.renew))
}

// noticeSoon has the server notice soon when this machine is gone, and end its transactions:
// of itself it waits two hours, with all that they have locked. Who only reads does not
// ask for that: the server would take one that does not read on for a minute for gone, too.
// A server, or a pooler, that does not take this is used as it is.
func noticeSoon(ctx context.Context, conn *pgconn.PgConn) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	err := conn.Exec(ctx, "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 60000").Close()
	if conn.IsClosed() {
		return err
	}
	return nil
}

// renew has a connection that is about to be made use the user, password and certificates
// that there are now. If they cannot be read, it uses those of before.
func (p dsn) renew(_ context.Context, c *pgx.ConnConfig) error {
	if p.reread == nil {
		return nil
	}
	text, err := p.reread()
	if err != nil {
		return nil
	}
	if now, err := parse(text); err == nil && now.config != nil {
		c.User, c.Password, c.TLSConfig, c.Fallbacks = now.config.User, now.config.Password, now.config.TLSConfig, now.config.Fallbacks
	}
	return nil
}
