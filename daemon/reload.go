package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/warrenmq/warren/daemon/internal/settings"
	"github.com/warrenmq/warren/systemd"
)

// reloadTimeout is how long a reload waits for a connection to renew.
const reloadTimeout = 30 * time.Second

// reload has the consumer connect anew on each SIGHUP, with what passwords and certificates
// are then, until ctx ends.
func (d *daemon) reload(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.hangups:
		}
		if !d.started.Load() { // or systemd would take the end of this for that of the start
			d.renew(ctx)
			continue
		}
		systemd.Reloading(func() { d.renew(ctx) })
	}
}

func (d *daemon) renew(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	log := d.Log.With("source", settings.NodesFrom())
	switch err := d.consumer.Renew(ctx); {
	case err == nil:
		log.Info("reloaded: passwords and certificates have been read anew")
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
		log.Warn("reload: there is no connection to renew; the next one is made with what passwords and certificates are then")
	case ctx.Err() == nil:
		log.Error("reload: the passwords and certificates that there are now do not work, the connection with those of before stays", "error", err)
	}
}
