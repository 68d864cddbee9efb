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
	fresh   string // targets to leave out as JSON, most rows, most bytes, longest body, and the row of the index to begin after: exchange, routing key, id
	refused string // what is due of it: targets to leave out as JSON, most rows, most bytes, longest body
	backlog string // how many rows, of which only so many are counted, and the age of the oldest in seconds
	remove  string // ids, as JSON; returns those that are left, since another transaction has them locked
	fail    string // id, error, seconds until the next attempt; returns the id if another transaction has it locked
}

const outboxValues = ` (exchange, routing_key, body, body_bytes, message_id, content_type, content_encoding,
	correlation_id, reply_to, type, app_id, priority, expiration_ms, headers)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`

const outboxColumns = `o.message_id, o.content_type, o.content_encoding, o.correlation_id, o.reply_to, o.type, o.app_id, o.priority, o.expiration_ms, o.headers`

// fresh goes from target to target by the index of new rows, and takes of each what is
// before the first that was refused. Rows are compared as they are, and on SQLite with a +,
// so that the planners see nothing better than that index. Within a target PostgreSQL would
// go on to the end of the index with rows, and without ANY take the primary key for as good.
//
// What is picked is read with its body, target after target, until the bodies are long
// enough, and at least one of them. A body that is too long for a message is not read.
const (
	outboxLength   = `o.exchange, o.routing_key, o.id, coalesce(octet_length(o.body), octet_length(o.body_bytes), 0) AS length`
	outboxPicked   = `FROM (SELECT id, length, sum(length) OVER (ORDER BY exchange, routing_key, id) - length AS before FROM picked) AS p `
	postgresPicked = `SELECT o.id, o.attempts, o.exchange, o.routing_key, p.length,
		CASE WHEN p.length <= $4 THEN coalesce(o.body_bytes, convert_to(o.body, 'UTF8')) END, ` + outboxColumns + `
		` + outboxPicked + `JOIN warren.outbox AS o ON o.id = p.id WHERE p.before < $3 ORDER BY o.exchange, o.routing_key, o.id`
	sqlitePicked = `SELECT o.id, o.attempts, o.exchange, o.routing_key, p.length,
		CASE WHEN p.length <= $4 THEN coalesce(o.body_bytes, o.body) END, ` + outboxColumns + `
		` + outboxPicked + `JOIN warren_outbox AS o ON o.id = p.id WHERE p.before < $3 ORDER BY o.exchange, o.routing_key, o.id`
)

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
	fresh: `WITH RECURSIVE target AS (
			(SELECT exchange, routing_key FROM warren.outbox WHERE retry_at IS NULL AND (exchange, routing_key, id) > ($5, $6, $7)
				ORDER BY exchange, routing_key LIMIT 1)
			UNION ALL
			SELECT o.* FROM target AS t, LATERAL (SELECT exchange, routing_key FROM warren.outbox
				WHERE retry_at IS NULL AND (exchange, routing_key) > (t.exchange, t.routing_key) ORDER BY exchange, routing_key LIMIT 1) AS o
		), picked AS (
			SELECT p.* FROM target AS t, LATERAL (SELECT ` + outboxLength + ` FROM warren.outbox AS o
				WHERE retry_at IS NULL AND exchange = ANY (ARRAY[t.exchange]) AND routing_key = t.routing_key
				AND id < coalesce((SELECT min(id) FROM warren.outbox
					WHERE retry_at IS NOT NULL AND exchange = t.exchange AND routing_key = t.routing_key), 9223372036854775807)
				ORDER BY exchange, id LIMIT $2) AS p
			WHERE (t.exchange, t.routing_key) NOT IN (SELECT b->>0, b->>1 FROM jsonb_array_elements($1::jsonb) AS b) LIMIT $2
		) ` + postgresPicked,
	refused: `WITH picked AS (SELECT ` + outboxLength + ` FROM warren.outbox AS o WHERE retry_at <= now()
			AND (exchange, routing_key) NOT IN (SELECT b->>0, b->>1 FROM jsonb_array_elements($1::jsonb) AS b)
			AND id = (SELECT min(id) FROM warren.outbox WHERE retry_at IS NOT NULL AND exchange = o.exchange AND routing_key = o.routing_key)
			ORDER BY retry_at LIMIT $2
		) ` + postgresPicked,
	backlog: `SELECT (SELECT count(*) FROM (SELECT 1 FROM warren.outbox LIMIT $1) AS counted),
		coalesce((SELECT extract(epoch FROM clock_timestamp() - created_at) FROM warren.outbox ORDER BY id LIMIT 1), 0)::float8`,
	remove: `WITH free AS (SELECT id FROM warren.outbox WHERE id IN (SELECT value::bigint FROM jsonb_array_elements_text($1::jsonb)) FOR UPDATE SKIP LOCKED),
			gone AS (DELETE FROM warren.outbox WHERE id IN (SELECT id FROM free))
		SELECT id FROM warren.outbox WHERE id IN (SELECT value::bigint FROM jsonb_array_elements_text($1::jsonb)) AND id NOT IN (SELECT id FROM free)`,
	fail: `WITH free AS (SELECT id FROM warren.outbox WHERE id = $1 FOR UPDATE SKIP LOCKED),
			marked AS (UPDATE warren.outbox SET attempts = attempts + 1, error = $2, retry_at = clock_timestamp() + make_interval(secs => $3)
				WHERE id IN (SELECT id FROM free))
		SELECT id FROM warren.outbox WHERE id = $1 AND id NOT IN (SELECT id FROM free)`,
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
	fresh: `WITH RECURSIVE target AS (
			SELECT * FROM (SELECT exchange, routing_key FROM warren_outbox WHERE retry_at IS NULL AND (exchange, routing_key, id) > ($5, $6, $7)
				ORDER BY exchange, routing_key LIMIT 1)
			UNION ALL
			SELECT o.exchange, o.routing_key FROM target AS t JOIN warren_outbox AS o ON o.id = (SELECT id FROM warren_outbox
				WHERE retry_at IS NULL AND (exchange, routing_key) > (+t.exchange, +t.routing_key) ORDER BY exchange, routing_key LIMIT 1)
		), picked AS (
			SELECT ` + outboxLength + ` FROM target AS t JOIN warren_outbox AS o ON o.id IN (SELECT id FROM warren_outbox
				WHERE retry_at IS NULL AND exchange = t.exchange AND routing_key = t.routing_key AND id < coalesce((SELECT min(id)
					FROM warren_outbox WHERE retry_at IS NOT NULL AND exchange = t.exchange AND routing_key = t.routing_key), 9223372036854775807)
				ORDER BY id LIMIT $2)
			WHERE (t.exchange, t.routing_key) NOT IN (SELECT value->>0, value->>1 FROM json_each($1)) LIMIT $2
		) ` + sqlitePicked,
	refused: `WITH picked AS (SELECT ` + outboxLength + ` FROM warren_outbox AS o WHERE retry_at <= unixepoch()
			AND (exchange, routing_key) NOT IN (SELECT value->>0, value->>1 FROM json_each($1))
			AND id = (SELECT min(id) FROM warren_outbox WHERE retry_at IS NOT NULL AND exchange = o.exchange AND routing_key = o.routing_key)
			ORDER BY retry_at LIMIT $2
		) ` + sqlitePicked,
	backlog: `SELECT (SELECT count(*) FROM (SELECT 1 FROM warren_outbox LIMIT $1)),
		coalesce((SELECT unixepoch() - created_at FROM warren_outbox ORDER BY id LIMIT 1), 0)`,
	remove: `DELETE FROM warren_outbox WHERE id IN (SELECT value FROM json_each($1))`,
	fail:   `UPDATE warren_outbox SET attempts = attempts + 1, error = $2, retry_at = unixepoch() + ceil($3) WHERE id = $1`,
}
