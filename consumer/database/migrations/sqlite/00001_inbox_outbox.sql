-- +goose Up

-- The messages whose work is done, so that a repeat is recognised.
CREATE TABLE warren_inbox (
	queue       TEXT    NOT NULL,
	message_id  TEXT    NOT NULL,
	digest      BLOB    NOT NULL, -- of the body
	done_at     INTEGER NOT NULL DEFAULT (unixepoch()),
	result_type TEXT,             -- with reply-to: the content type of the result,
	result      BLOB,             -- and the result
	PRIMARY KEY (queue, message_id, digest)
) WITHOUT ROWID;
CREATE INDEX warren_inbox_done_at ON warren_inbox (done_at);

-- The messages to publish. Any program may insert rows.
CREATE TABLE warren_outbox (
	id               INTEGER PRIMARY KEY AUTOINCREMENT, -- no id is used again: they are the order
	exchange         TEXT    NOT NULL DEFAULT '' CHECK (length(CAST(exchange AS BLOB)) <= 255),
	routing_key      TEXT    NOT NULL            CHECK (length(CAST(routing_key AS BLOB)) <= 255),
	body             TEXT, -- or
	body_bytes       BLOB,
	message_id       TEXT    NOT NULL DEFAULT (lower(hex(randomblob(16)))) CHECK (length(CAST(message_id AS BLOB)) BETWEEN 1 AND 255),
	content_type     TEXT    NOT NULL DEFAULT 'application/json' CHECK (length(CAST(content_type AS BLOB)) <= 255),
	content_encoding TEXT    NOT NULL DEFAULT '' CHECK (length(CAST(content_encoding AS BLOB)) <= 255),
	correlation_id   TEXT    NOT NULL DEFAULT '' CHECK (length(CAST(correlation_id AS BLOB)) <= 255),
	reply_to         TEXT    NOT NULL DEFAULT '' CHECK (length(CAST(reply_to AS BLOB)) <= 255),
	type             TEXT    NOT NULL DEFAULT '' CHECK (length(CAST(type AS BLOB)) <= 255),
	app_id           TEXT    NOT NULL DEFAULT '' CHECK (length(CAST(app_id AS BLOB)) <= 255),
	priority         INTEGER NOT NULL DEFAULT 0  CHECK (typeof(priority) = 'integer' AND priority BETWEEN 0 AND 255),
	expiration_ms    INTEGER NOT NULL DEFAULT 0  CHECK (typeof(expiration_ms) = 'integer' AND expiration_ms BETWEEN 0 AND 4294967295),
	headers          TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(headers) AND json_type(headers) = 'object'),
	created_at       INTEGER NOT NULL DEFAULT (unixepoch()),
	-- Written by Warren, when the message could not be published.
	attempts         INTEGER NOT NULL DEFAULT 0,
	error            TEXT,
	retry_at         INTEGER,
	CHECK (body IS NULL OR body_bytes IS NULL)
);
CREATE INDEX warren_outbox_held ON warren_outbox (exchange, routing_key, id) WHERE retry_at IS NOT NULL;
