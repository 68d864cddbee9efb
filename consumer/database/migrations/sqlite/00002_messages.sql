-- +goose Up

-- Where messages stand, for whoever asks. Times are Unix milliseconds.
CREATE TABLE warren_messages (
	message_id   TEXT    NOT NULL,
	queue        TEXT    NOT NULL,
	state        TEXT    NOT NULL,
	attempt      INTEGER NOT NULL,
	updated_at   INTEGER NOT NULL,
	due_at       INTEGER,          -- waiting: when the next attempt may begin
	percent      INTEGER NOT NULL,
	progress     TEXT    NOT NULL,
	reason       TEXT    NOT NULL, -- dead: why
	error        TEXT    NOT NULL, -- of the last attempt
	result_type  TEXT    NOT NULL, -- succeeded: the content type of the result,
	result       BLOB,             -- the result, unless that is too long,
	result_bytes INTEGER NOT NULL, -- and how long it is
	ord          INTEGER NOT NULL, -- lower than that of any later state
	begins       INTEGER NOT NULL, -- it may follow the last state of an earlier life
	expires_at   INTEGER NOT NULL,
	PRIMARY KEY (message_id, queue)
) WITHOUT ROWID;
CREATE INDEX warren_messages_expires_at ON warren_messages (expires_at);
