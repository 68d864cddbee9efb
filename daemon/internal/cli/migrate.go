package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

type migrateCommand struct{}

// Run migrates Warren's own tables. It needs no variable but those of the database.
func (migrateCommand) Run(ctx context.Context, a App) error {
	cfg, err := settings.Database()
	if err != nil {
		return err
	}
	db, err := database.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	n, err := db.Migrate(ctx)
	if err == nil {
		_, err = fmt.Fprintf(a.Out, "%s: migrations made: %d\n", db.Name(), n)
	}
	return errors.Join(err, db.Close())
}
