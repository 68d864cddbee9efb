package state

import "github.com/warrenmq/warren/consumer/database"

// The states of messages; the rule of which replaces which is that of row.follows: what insertStates writes does not replace what is later. A
// message that is sent again after its success is not back in its queue as long as
// nobody works it: its publisher may have missed the answer, and wants the result.
// Times are Unix milliseconds on their way to and from the database.
const (
	columns = `message_id, queue, state, attempt, redelivered, updated_at, due_at, percent, progress, reason, error,
	result_type, result, result_bytes, ord, begins, expires_at`

	replaceEarlier = ` ON CONFLICT (message_id, queue) DO UPDATE SET
	state = excluded.state, attempt = excluded.attempt, redelivered = excluded.redelivered, updated_at = excluded.updated_at,
	due_at = excluded.due_at, percent = excluded.percent, progress = excluded.progress, reason = excluded.reason, error = excluded.error,
	result_type = excluded.result_type, result = excluded.result, result_bytes = excluded.result_bytes,
	ord = excluded.ord, begins = excluded.begins, expires_at = excluded.expires_at
	WHERE excluded.ord > m.ord OR excluded.ord = m.ord AND excluded.updated_at >= m.updated_at
		OR excluded.begins AND (m.state = 'dead' OR excluded.state <> 'accepted') AND excluded.updated_at > m.updated_at + `
)

var (
	insertStates = database.Statement{
		PostgreSQL: `INSERT INTO warren.messages AS m (` + columns + `)
			SELECT message_id, queue, state, attempt, redelivered, to_timestamp(updated_at / 1000.0), to_timestamp(due_at / 1000.0), percent, progress, reason,
				error, result_type, decode(result, 'hex'), result_bytes, ord, begins, to_timestamp(expires_at / 1000.0)
			FROM json_to_recordset($1::json) AS t(message_id text, queue text, state text, attempt int, redelivered boolean, updated_at bigint, due_at bigint,
				percent smallint, progress text, reason text, error text, result_type text, result text, result_bytes bigint, ord bigint, begins boolean, expires_at bigint)` +
			replaceEarlier + `interval '1 second'`,
		SQLite: `INSERT INTO warren_messages AS m (` + columns + `)
			SELECT value->>'message_id', value->>'queue', value->>'state', value->>'attempt', value->>'redelivered', value->>'updated_at', value->>'due_at',
				value->>'percent', value->>'progress', value->>'reason', value->>'error', value->>'result_type', unhex(value->>'result'), value->>'result_bytes', value->>'ord',
				value->>'begins', value->>'expires_at'
			FROM json_each($1) WHERE true` +
			replaceEarlier + `1000`,
	}
	selectState = database.Statement{
		PostgreSQL: `SELECT queue, state, attempt, redelivered, (extract(epoch FROM updated_at) * 1000)::bigint, coalesce((extract(epoch FROM due_at) * 1000)::bigint, 0),
				percent, progress, reason, error, result_type, result, result_bytes
			FROM warren.messages WHERE message_id = $1 AND ($2 = '' OR queue = $2) ORDER BY updated_at DESC LIMIT 1`,
		SQLite: `SELECT queue, state, attempt, redelivered, updated_at, coalesce(due_at, 0), percent, progress, reason, error, result_type, result, result_bytes
			FROM warren_messages WHERE message_id = $1 AND ($2 = '' OR queue = $2) ORDER BY updated_at DESC LIMIT 1`,
	}
	deleteExpired = database.Statement{
		PostgreSQL: `DELETE FROM warren.messages WHERE ctid = ANY (ARRAY(SELECT ctid FROM warren.messages
			WHERE expires_at < to_timestamp($1 / 1000.0) ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))`,
		SQLite: `DELETE FROM warren_messages WHERE (message_id, queue) IN (SELECT message_id, queue FROM warren_messages
			WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`,
	}
)
