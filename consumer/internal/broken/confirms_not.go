//go:build !broken_confirms

package broken

import "context"

// Publish publishes a message and waits for its confirm.
func Publish(ctx context.Context, publish func(context.Context) error) error { return publish(ctx) }
