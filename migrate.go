package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

type migrateCommand struct{}

// Run migrates Warren's own tables. It needs no variable but those of the database.
func (migrateCommand) Run(ctx context.Context, std streams) error {
	env := &environment{owners: make(map[string]string)}
	s := readDatabase(env)
	if s.URL == "" {
		env.faultf("%sDATABASE_URL is not set; there is nothing to migrate without a database", envPrefix)
	}
	if err := env.err(); err != nil {
		return err
	}
	db, err := openDatabase(s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	n, err := db.Migrate(ctx)
	if err == nil {
		_, err = fmt.Fprintf(std.out, "%s: migrations made: %d\n", db.Name(), n)
	}
	return errors.Join(err, db.Close())
}
