package database

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer"
)

// Publish adds m to the outbox.
func (t *transaction) Publish(ctx context.Context, m consumer.Message) error {
	headers := []byte("{}")
	if len(m.Headers) > 0 {
		var err error
		if headers, err = json.Marshal(m.Headers); err != nil {
			return fmt.Errorf("headers: %w", err)
		}
	}
	contentType := m.ContentType
	if contentType == "" {
		contentType = "application/json"
	}
	body, bytes := columns(m.Body)
	_, err := t.tx.ExecContext(ctx, t.d.dsn.dialect.enqueue, m.Exchange, m.RoutingKey, body, bytes, m.MessageID, contentType, m.ContentEncoding,
		m.CorrelationID, m.ReplyTo, m.Type, m.AppID, int64(m.Priority), m.Expiration.Milliseconds(), string(headers))
	if err != nil {
		return t.d.lost(fmt.Errorf("write to the outbox: %w", err))
	}
	return nil
}

// columns are body and body_bytes: text is for people to read.
func columns(body []byte) (text *string, bytes []byte) {
	if utf8.Valid(body) && !slices.Contains(body, 0) {
		s := string(body)
		return &s, nil
	}
	return nil, body
}
