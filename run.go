package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/systemd"
	"github.com/warrenmq/warren/telemetry"
)

// leastFlush is what the last spans get even if the work has used up the shutdown
// timeout.
const leastFlush = 500 * time.Millisecond

type runCommand struct{}

// Run is the daemon. It returns once every goroutine it started has ended, but for
// abandoned work.
func (runCommand) Run(ctx context.Context, std streams) (err error) {
	defer func() {
		if err != nil {
			systemd.Failed(err)
		}
	}()
	cfg, err := loadConfig(std.err)
	if err != nil {
		return err
	}
	var stopped atomic.Int64 // Unix nanoseconds
	context.AfterFunc(ctx, func() { stopped.Store(time.Now().UnixNano()) })

	tel, err := telemetry.Start(ctx, buildVersion(), cfg.log)
	if err != nil {
		return errors.Join(err, cfg.Close())
	}
	cfg.consumer.Telemetry = consumer.Telemetry{
		TracerProvider: tel.TracerProvider, MeterProvider: tel.MeterProvider, Propagator: tel.Propagator, Link: cfg.traceLink,
	}
	err = work(ctx, cfg, tel)

	// After the work, whose last spans are what an operator most needs to see; yet
	// within the time that systemd has been told it all takes.
	left := leastFlush
	if at := stopped.Load(); at != 0 {
		left = max(left, time.Until(time.Unix(0, at).Add(cfg.consumer.ShutdownTimeout)))
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), left)
	defer cancel()
	tel.Shutdown(flush)
	return err
}

// work runs the consumer, and beside it what tells others how that is: the admin server
// and systemd's notifications.
func work(ctx context.Context, cfg *config, tel *telemetry.Telemetry) error {
	if err := cfg.Open(); err != nil {
		return errors.Join(err, cfg.Close())
	}
	states, err := newStates(cfg, tel)
	if err != nil {
		return errors.Join(err, cfg.Close())
	}
	c, err := consumer.New(cfg.consumer, cfg.log)
	if err != nil {
		return errors.Join(err, cfg.Close())
	}
	var beside sync.WaitGroup
	watched, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	defer beside.Wait()
	defer stopWatching() // after Run: how the daemon stops can be watched, too
	if cfg.admin.Addr != "" {
		cfg.admin.Metrics, cfg.admin.Healthy, cfg.admin.Ready = tel.Metrics, c.Healthy, func() []telemetry.Check { return readiness(c.Status(), cfg.database) }
		cfg.admin.API = newAPI(cfg, c, states, tel)
		server, err := telemetry.NewAdmin(cfg.admin, cfg.log)
		if err != nil {
			return errors.Join(err, cfg.Close())
		}
		cfg.log.Info("admin server listens", "addr", server.Addr())
		beside.Go(func() {
			if err := server.Run(watched); err != nil {
				cfg.log.Error("the admin server has ended, the work goes on", "error", err)
			}
		})
	}
	beside.Go(func() { service(ctx, c, cfg).Run(watched, ctx, cfg.log) })
	cfg.log.Info("starting", "version", buildVersion(), "queues", cfg.queueNames())
	if cfg.database != nil {
		if err := cfg.database.Prepare(ctx, cfg.migrate); err != nil {
			return errors.Join(err, cfg.Close())
		}
	}
	if err := runObserved(ctx, c, states); errors.Is(err, consumer.ErrAbandoned) {
		return err // closing the processors might wait for the work that did not end
	} else {
		return errors.Join(err, cfg.Close())
	}
}
