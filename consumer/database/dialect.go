package database

// A dialect is what differs between PostgreSQL and SQLite: where the tables are,
// and the statements.
type dialect struct {
	migrations string // their folder
	versions   string // the table of those that were made

	done    string // queue, message id, digest
	record  string // queue, message id, digest: no row if it was there
	answer  string // queue, message id, digest, content type, result
	clean   string // age in seconds, most rows
	enqueue string
	next    string // most rows, targets to leave out as JSON, whether to read what was refused before
	backlog string // how many rows, of which only so many are counted, and the age of the oldest in seconds
	remove  string // ids, as JSON
	fail    string // id, error, seconds until the next attempt
}

const outboxValues = ` (exchange, routing_key, body, body_bytes, message_id, content_type, content_encoding,
	correlation_id, reply_to, type, app_id, priority, expiration_ms, headers)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`

const outboxColumns = `o.id, o.attempts, o.exchange, o.routing_key, o.body, o.body_bytes, o.message_id, o.content_type, o.content_encoding,
	o.correlation_id, o.reply_to, o.type, o.app_id, o.priority, o.expiration_ms, o.headers`

var postgres = &dialect{
	migrations: "migrations/postgres",
	versions:   "warren.migrations",

	done: `SELECT coalesce(result_type, ''), result FROM warren.inbox WHERE queue = $1 AND message_id = $2 AND digest = $3`,
	record: `INSERT INTO warren.inbox (queue, message_id, digest) VALUES ($1, $2, $3)
		ON CONFLICT (queue, message_id, digest) DO NOTHING`,
	answer: `UPDATE warren.inbox SET result_type = $4, result = $5 WHERE queue = $1 AND message_id = $2 AND digest = $3`,
	clean: `DELETE FROM warren.inbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM warren.inbox
		WHERE done_at < now() - make_interval(secs => $1) ORDER BY done_at LIMIT $2 FOR UPDATE SKIP LOCKED))`,
	enqueue: `INSERT INTO warren.outbox` + outboxValues,
	next: `SELECT ` + outboxColumns + ` FROM warren.outbox o
		WHERE (o.retry_at IS NULL OR $3 AND o.retry_at <= now())
		AND NOT EXISTS (SELECT 1 FROM jsonb_array_elements($2::jsonb) AS b WHERE b->>0 = o.exchange AND b->>1 = o.routing_key)
		AND NOT EXISTS (SELECT 1 FROM warren.outbox h
			WHERE h.retry_at IS NOT NULL AND h.exchange = o.exchange AND h.routing_key = o.routing_key AND h.id < o.id)
		ORDER BY o.id LIMIT $1`,
	backlog: `SELECT (SELECT count(*) FROM (SELECT 1 FROM warren.outbox LIMIT $1) AS counted),
		coalesce((SELECT extract(epoch FROM clock_timestamp() - created_at) FROM warren.outbox ORDER BY id LIMIT 1), 0)::float8`,
	remove: `DELETE FROM warren.outbox WHERE id IN (SELECT value::bigint FROM jsonb_array_elements_text($1::jsonb))`,
	fail: `UPDATE warren.outbox SET attempts = attempts + 1, error = $2, retry_at = clock_timestamp() + make_interval(secs => $3)
		WHERE id = $1`,
}

var sqlite = &dialect{
	migrations: "migrations/sqlite",
	versions:   "warren_migrations",

	done:   `SELECT coalesce(result_type, ''), result FROM warren_inbox WHERE queue = $1 AND message_id = $2 AND digest = $3`,
	record: `INSERT INTO warren_inbox (queue, message_id, digest) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
	answer: `UPDATE warren_inbox SET result_type = $4, result = $5 WHERE queue = $1 AND message_id = $2 AND digest = $3`,
	clean: `DELETE FROM warren_inbox WHERE (queue, message_id, digest) IN (SELECT queue, message_id, digest FROM warren_inbox
		WHERE done_at < unixepoch() - $1 ORDER BY done_at LIMIT $2)`,
	enqueue: `INSERT INTO warren_outbox` + outboxValues,
	next: `SELECT ` + outboxColumns + ` FROM warren_outbox o
		WHERE (o.retry_at IS NULL OR $3 AND o.retry_at <= unixepoch())
		AND ($2 = '[]' OR NOT EXISTS (SELECT 1 FROM json_each($2) WHERE value->>0 = o.exchange AND value->>1 = o.routing_key))
		AND NOT EXISTS (SELECT 1 FROM warren_outbox h
			WHERE h.retry_at IS NOT NULL AND h.exchange = o.exchange AND h.routing_key = o.routing_key AND h.id < o.id)
		ORDER BY o.id LIMIT $1`,
	backlog: `SELECT (SELECT count(*) FROM (SELECT 1 FROM warren_outbox LIMIT $1)),
		coalesce((SELECT unixepoch() - created_at FROM warren_outbox ORDER BY id LIMIT 1), 0)`,
	remove: `DELETE FROM warren_outbox WHERE id IN (SELECT value FROM json_each($1))`,
	fail:   `UPDATE warren_outbox SET attempts = attempts + 1, error = $2, retry_at = unixepoch() + ceil($3) WHERE id = $1`,
}
