-- +goose Up

-- Where messages stand, for whoever asks.
CREATE TABLE warren.messages (
	message_id   text        NOT NULL,
	queue        text        NOT NULL,
	state        text        NOT NULL,
	attempt      integer     NOT NULL,
	updated_at   timestamptz NOT NULL,
	due_at       timestamptz,          -- waiting: when the next attempt may begin
	percent      smallint    NOT NULL,
	progress     text        NOT NULL,
	reason       text        NOT NULL, -- dead: why
	error        text        NOT NULL, -- of the last attempt
	result_type  text        NOT NULL, -- succeeded: the content type of the result,
	result       bytea,                -- the result, unless that is too long,
	result_bytes bigint      NOT NULL, -- and how long it is
	ord          bigint      NOT NULL, -- lower than that of any later state
	begins       boolean     NOT NULL, -- it may follow the last state of an earlier life
	expires_at   timestamptz NOT NULL,
	PRIMARY KEY (message_id, queue)
);
CREATE INDEX messages_expires_at ON warren.messages (expires_at);
