package database

import "context"

// A Statement is one in the words of both databases, for the packages that keep tables
// of their own here. Its parameters are $1, $2 and so on in both.
type Statement struct{ PostgreSQL, SQLite string }

func (d *Database) words(s Statement) string {
	if d.dsn.dialect == postgres {
		return s.PostgreSQL
	}
	return s.SQLite
}

// Exec executes s, and returns how many rows that was for. On SQLite it blocks while
// anything else writes. Its errors are for operators to read; see [IsUnusable].
func (d *Database) Exec(ctx context.Context, s Statement, args ...any) (int64, error) {
	r, err := d.write.ExecContext(ctx, d.words(s), args...)
	if err != nil {
		return 0, d.explain(err)
	}
	return r.RowsAffected()
}

// QueryRow scans the first row of what s selects with args into dest. Without one, it
// returns [sql.ErrNoRows]; other errors are as those of Exec.
func (d *Database) QueryRow(ctx context.Context, s Statement, args []any, dest ...any) error {
	return d.explain(d.read.QueryRowContext(ctx, d.words(s), args...).Scan(dest...))
}
