// Package database keeps state in PostgreSQL or SQLite: the transaction of a
// delivery, the inbox by which a repeat is recognised, and the outbox, whose
// messages are published after their commit. [Database] is what a
// [consumer.Config] takes as its Database.
//
// Its own tables are in the schema warren of PostgreSQL, or begin with warren_ on
// SQLite; see the folder migrations.
package database

import (
	"database/sql"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/internal/outage"
)

// Config is what a [Database] is made from.
type Config struct {
	// URL as [Open] takes it. Required.
	URL string
	// ReadURL returns URL as it is now, for a new user, password or certificate to count
	// from the next connection on. Nil means that it stays what it is.
	ReadURL func() (string, error)
	// Connections is how many deliveries may work with it at once. Zero means 8.
	Connections int
	// InboxTTL is how long a message is recognised. Zero means 7 days.
	InboxTTL time.Duration
}

// statementTimeout bounds what takes no time at a database that answers. Without it, one
// that does not would be waited for until an attempt has timed out, and is counted.
const statementTimeout = 5 * time.Second

// AskingConnections is how many requests for states may use the database at once.
const AskingConnections = 4

// ownConnections are those of the relay, of whoever cleans, and of a check; of who
// writes and cleans states, and who asks for them.
const ownConnections = 3 + 2 + AskingConnections

// A Database is a pool of connections to one database. It may be used by any
// number of goroutines.
type Database struct {
	dsn    dsn
	write  *sql.DB
	read   *sql.DB // on PostgreSQL the same
	ttl    time.Duration
	log    *slog.Logger
	outage outage.Outage
	// unwritable: the outage there is, if any, ends with what is written, not with what is read.
	unwritable atomic.Bool
	backlog    atomic.Pointer[backlog] // nil: not known

	// published are rows of the outbox, by their ids, that this process has published and
	// not deleted yet, with their message-ids: an id may come again, if the database is
	// restored. Of Run.
	published map[int64]string
}

var (
	_ consumer.Database = (*Database)(nil)
	_ consumer.Outbox   = (*Database)(nil)
)

// New makes the pool of cfg. It connects to nothing yet. The caller closes the
// Database. No error holds the URL.
func New(cfg Config, log *slog.Logger) (*Database, error) {
	p, err := parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	d := &Database{
		dsn: p, ttl: cfg.InboxTTL, log: log, published: make(map[int64]string),
		// When a server goes away, some connections fail while others still succeed, each with words of its own.
		outage: outage.Outage{Texts: 1, Least: time.Second},
	}
	if d.ttl == 0 {
		d.ttl = 7 * 24 * time.Hour
	}
	connections := cfg.Connections
	if connections == 0 {
		connections = 8
	}
	p.reread = cfg.ReadURL
	if d.write, err = p.open(); err != nil {
		return nil, err
	}
	d.read = d.write
	if p.dialect == sqlite {
		// One writer at a time is all that SQLite can do: the others wait for their
		// turn here, in order, and without asking for it again and again.
		d.write.SetMaxOpenConns(1)
		if d.read, err = p.open(); err != nil {
			return nil, errors.Join(err, d.write.Close())
		}
	}
	d.read.SetMaxOpenConns(connections + ownConnections)
	d.read.SetMaxIdleConns(connections + ownConnections)
	return d, nil
}

// Name says which database it is, fit for logs.
func (d *Database) Name() string { return d.dsn.name }

// Close closes the pool. It waits for what is under way.
func (d *Database) Close() error {
	if d.read == d.write {
		return d.write.Close()
	}
	return errors.Join(d.read.Close(), d.write.Close())
}
