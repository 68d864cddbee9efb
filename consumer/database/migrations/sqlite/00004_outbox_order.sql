-- +goose Up

-- The relay goes from one exchange and routing key to the next, and reads of each what it
-- publishes, whatever else is in the outbox. What was refused is tried again in its turn.
CREATE INDEX warren_outbox_fresh ON warren_outbox (exchange, routing_key, id) WHERE retry_at IS NULL;
CREATE INDEX warren_outbox_retry ON warren_outbox (retry_at) WHERE retry_at IS NOT NULL;
