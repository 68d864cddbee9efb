-- +goose Up

-- An attempt may have been cut off, uncounted: its worker was lost. A daemon of before
-- does not know the column, and leaves it as it is.
ALTER TABLE warren.messages ADD COLUMN redelivered boolean NOT NULL DEFAULT false;
