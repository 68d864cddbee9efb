package database

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/sethvargo/go-retry"
)

//go:embed migrations
var migrations embed.FS

// migrateLock is the advisory lock of PostgreSQL that one who migrates holds.
const migrateLock = 0x77617272656e01

// unlockTimeout is how long a server that may be frozen has to free it.
const unlockTimeout = 5 * time.Second

// Migrate makes Warren's own tables, or brings them to what this program needs,
// and returns how many migrations that took. Any number of processes may do so at
// once; it blocks until it is its turn.
func (d *Database) Migrate(ctx context.Context) (int, error) {
	unlock, err := d.lockMigrations(ctx)
	if err != nil {
		return 0, d.explain(err)
	}
	defer unlock()
	p, err := d.provider()
	if err != nil {
		return 0, err
	}
	made, err := p.Up(ctx)
	if err != nil {
		return 0, d.explain(fmt.Errorf("migrate: %w", err))
	}
	return len(made), nil
}

func (d *Database) provider() (*goose.Provider, error) {
	files, err := fs.Sub(migrations, d.dsn.dialect.migrations)
	if err != nil {
		return nil, err
	}
	dialect := goose.DialectSQLite3
	if d.dsn.dialect == postgres {
		dialect = goose.DialectPostgres
	}
	return goose.NewProvider(dialect, d.write, files, goose.WithTableName(d.dsn.dialect.versions), goose.WithDisableGlobalRegistry(true))
}

// lockMigrations blocks until no other process migrates, and prepares the schema.
func (d *Database) lockMigrations(ctx context.Context) (unlock func(), err error) {
	if d.dsn.dialect == sqlite {
		f, err := lockFile(ctx, d.dsn.path+"-migrate")
		if err != nil {
			return nil, err
		}
		return func() { _ = f.Close() }, nil
	}
	conn, err := d.write.Conn(ctx)
	if err != nil {
		return nil, err
	}
	unlock = func() { // if it fails, the connection is lost, and the lock with it
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer cancel()
		_, _ = conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", int64(migrateLock))
		_ = conn.Close()
	}
	if _, err = conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrateLock)); err == nil {
		err = createSchema(ctx, conn)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// createSchema creates the schema if it is not there: to say IF NOT EXISTS takes
// the permission to create one even then.
func createSchema(ctx context.Context, conn *sql.Conn) error {
	var there bool
	err := conn.QueryRowContext(ctx, "SELECT to_regnamespace('warren') IS NOT NULL").Scan(&there)
	if err == nil && !there {
		_, err = conn.ExecContext(ctx, "CREATE SCHEMA warren")
	}
	return err
}

// Check returns an error if the database cannot be reached, or if Warren's tables
// are missing or older than what this program needs. It changes nothing; above all, it
// makes no file for SQLite.
func (d *Database) Check(ctx context.Context) error {
	p, err := d.provider()
	if err != nil {
		return err
	}
	sources := p.ListSources()
	need := sources[len(sources)-1].Version
	read := d.read
	if d.dsn.dialect == sqlite {
		if _, err := os.Stat(d.dsn.path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s is not there; %s", ErrTables, d.dsn.name, remedy)
		}
		if read, err = d.dsn.openReader(true); err != nil {
			return err
		}
		defer func() { _ = read.Close() }()
	}
	if err := read.PingContext(ctx); err != nil {
		return d.explain(err)
	}
	var have int64
	err = read.QueryRowContext(ctx, "SELECT coalesce(max(version_id), 0) FROM "+d.dsn.dialect.versions+" WHERE is_applied").Scan(&have)
	switch {
	case isMissing(err):
		return fmt.Errorf("%w: %s has none of Warren's tables; %s", ErrTables, d.dsn.name, remedy)
	case err != nil:
		return d.explain(err)
	case have < need:
		return fmt.Errorf("%w: those of %s are at version %d, this program needs %d; %s", ErrTables, d.dsn.name, have, need, remedy)
	}
	return nil
}

// Prepare blocks until the tables are there: it migrates them if it may, and else
// returns an error if there is something to migrate. While the database cannot be
// reached, it tries again, until ctx ends, and then returns nil.
func (d *Database) Prepare(ctx context.Context, migrate bool) error {
	pauses := retry.WithCappedDuration(3*time.Second, retry.NewExponential(200*time.Millisecond))
	err := retry.Do(ctx, pauses, func(ctx context.Context) error {
		err := d.Check(ctx)
		if migrate && errors.Is(err, ErrTables) {
			var n int
			if n, err = d.Migrate(ctx); err == nil && n > 0 {
				d.log.Info("tables migrated", "migrations", n)
			}
		}
		switch {
		case err == nil:
			d.answered()
			return nil
		case isLasting(err):
			return err
		}
		d.met(err)
		return retry.RetryableError(err)
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ErrTables is in the error of Check if there is something to migrate.
var ErrTables = errors.New("the tables are not as they should be")

const remedy = "run warren migrate, or set WARREN_MIGRATE=true"
