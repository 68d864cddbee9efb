package main

import (
	"context"
	_ "embed"
	"net/http"
	"sync"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/consumer/httpapi"
	"github.com/warrenmq/warren/telemetry"
)

//go:embed docs/openapi.yaml
var openAPI []byte

// newAPI is what the admin server serves below /v1/.
func newAPI(cfg *config, c *consumer.Consumer, status *database.Status, tel *telemetry.Telemetry) http.Handler {
	api := httpapi.Config{
		Queues: cfg.queueNames(), Publish: c.Publish, MaxBodyBytes: int64(cfg.maxBody), Propagator: tel.Propagator, OpenAPI: openAPI,
	}
	if status != nil {
		api.Store = status
	}
	return httpapi.New(api, cfg.log)
}

// newStatus has the consumer observed, if states are kept; else it returns nil.
func newStatus(cfg *config, tel *telemetry.Telemetry) (*database.Status, error) {
	if cfg.database == nil || cfg.statusTTL == 0 {
		return nil, nil
	}
	status, err := cfg.database.NewStatus(cfg.statusTTL, tel.MeterProvider)
	if err != nil {
		return nil, err
	}
	cfg.consumer.Observer = status
	return status, nil
}

// runObserved runs the consumer, and what writes the states for as long and a moment
// longer, if there is any.
func runObserved(ctx context.Context, c *consumer.Consumer, status *database.Status) error {
	if status == nil {
		return c.Run(ctx)
	}
	var writing sync.WaitGroup
	working, end := context.WithCancel(context.WithoutCancel(ctx))
	defer writing.Wait()
	defer end()
	writing.Go(func() { status.Run(working) })
	return c.Run(ctx)
}
