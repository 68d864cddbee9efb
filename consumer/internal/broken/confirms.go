//go:build broken_confirms

package broken

import "context"

// Publish does not wait for the confirm.
func Publish(ctx context.Context, publish func(context.Context) error) error {
	go publish(context.WithoutCancel(ctx)) //nolint:errcheck // that is the point
	return nil
}
