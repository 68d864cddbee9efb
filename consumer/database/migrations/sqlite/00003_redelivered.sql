-- +goose Up

-- An attempt may have been cut off, uncounted: its worker was lost. A daemon of before
-- does not know the column, and leaves it as it is.
ALTER TABLE warren_messages ADD COLUMN redelivered INTEGER NOT NULL DEFAULT false;
