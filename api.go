package main

import (
	"context"
	_ "embed"
	"net/http"
	"sync"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/httpapi"
	"github.com/warrenmq/warren/consumer/state"
	"github.com/warrenmq/warren/telemetry"
)

//go:embed docs/openapi.yaml
var openAPI []byte

// newAPI is what the admin server serves below /v1/.
func newAPI(cfg *config, c *consumer.Consumer, states *state.Store, tel *telemetry.Telemetry) http.Handler {
	api := httpapi.Config{
		Queues: cfg.queueNames(), Publish: c.Publish, MaxBodyBytes: int64(cfg.maxBody), Propagator: tel.Propagator, OpenAPI: openAPI,
	}
	if states != nil {
		api.Store = states
	}
	return httpapi.New(api, cfg.log)
}

// newStates has the consumer observed, if states are kept; else it returns nil.
func newStates(cfg *config, tel *telemetry.Telemetry) (*state.Store, error) {
	if cfg.database == nil || cfg.statusTTL == 0 {
		return nil, nil
	}
	states, err := state.New(cfg.database, cfg.statusTTL, tel.MeterProvider, cfg.log)
	if err != nil {
		return nil, err
	}
	cfg.consumer.Observer = states
	return states, nil
}

// runObserved runs the consumer, and what writes the states for as long and a moment
// longer, if there is any.
func runObserved(ctx context.Context, c *consumer.Consumer, states *state.Store) error {
	if states == nil {
		return c.Run(ctx)
	}
	var writing sync.WaitGroup
	working, end := context.WithCancel(context.WithoutCancel(ctx))
	defer writing.Wait()
	defer end()
	writing.Go(func() { states.Run(working) })
	return c.Run(ctx)
}
