package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/consumer/httpapi"
	"github.com/warrenmq/warren/consumer/state"
	"github.com/warrenmq/warren/daemon/internal/page"
	"github.com/warrenmq/warren/daemon/internal/settings"
	"github.com/warrenmq/warren/systemd"
	"github.com/warrenmq/warren/telemetry"
)

// leastFlush is what the last spans get even if the work has used up the shutdown
// timeout.
const leastFlush = 500 * time.Millisecond

// run is the daemon. It returns once every goroutine it started has ended, but for
// abandoned work.
func run(ctx context.Context, p settings.Program, stderr io.Writer) (err error) {
	defer func() {
		if err != nil {
			systemd.Failed(err)
		}
	}()
	hangups := make(chan os.Signal, 1) // one is as good as several
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	cfg, err := settings.Load(p, stderr)
	if err != nil {
		return err
	}
	d := daemon{Config: cfg, program: p, hangups: hangups}
	context.AfterFunc(ctx, func() { d.stopped.Store(time.Now().UnixNano()) })
	if err = d.open(ctx); err == nil {
		err = d.consumer.Run(ctx)
	}
	return errors.Join(err, d.teardown.close(errors.Is(err, consumer.ErrAbandoned)))
}

// A daemon is what its configuration has been made into.
type daemon struct {
	*settings.Config // as it was read
	program          settings.Program
	hangups          <-chan os.Signal
	started          atomic.Bool  // systemd has been told
	stopped          atomic.Int64 // Unix nanoseconds; 0: not yet

	telemetry *telemetry.Telemetry
	database  *database.Database // nil: none
	states    *state.Store       // nil: none are kept
	consumer  *consumer.Consumer
	teardown  teardown
}

// open opens all that the daemon consists of, each beside how it is closed, and starts
// what runs beside the consumer. What has been opened when it fails is in the teardown,
// too.
func (d *daemon) open(ctx context.Context) (err error) {
	if d.telemetry, err = telemetry.Start(ctx, d.program.Name, d.program.Version, d.Log); err != nil {
		return err
	}
	d.teardown.add(step{name: "telemetry", close: func() error { d.flush(ctx); return nil }})

	if d.Database.URL != "" {
		cfg := d.Database
		cfg.ReadURL = settings.DatabaseURL
		if d.database, err = database.New(cfg, d.Log); err != nil {
			return err
		}
		d.teardown.add(step{name: d.database.Name(), close: d.database.Close, waits: true})
		if err = d.database.Meter(d.telemetry.MeterProvider); err != nil {
			return err
		}
		if d.StatusTTL > 0 {
			if d.states, err = state.New(d.database, d.StatusTTL, d.telemetry.MeterProvider, d.Log); err != nil {
				return err
			}
		}
	}
	if err := d.openConsumer(); err != nil {
		return err
	}
	// These are closed after Run: how the daemon stops can be watched, too.
	if d.Admin.Addr != "" {
		if err := d.startAdmin(ctx); err != nil {
			return err
		}
	}
	d.teardown.start(ctx, "the notifications of systemd", func(watched context.Context) { d.service(ctx).Run(watched, ctx, d.Log) })
	d.teardown.start(ctx, "reloading", d.reload)
	d.Log.Info("starting", "version", d.program.Version, "queues", d.QueueNames())
	if d.database != nil {
		if err := d.database.Prepare(ctx, d.Migrate); err != nil {
			return err
		}
	}
	if d.states != nil {
		d.teardown.start(ctx, "the states of messages", d.states.Run)
	}
	return nil
}

// openConsumer opens the processors and makes the consumer of all that it needs.
func (d *daemon) openConsumer() (err error) {
	cfg := d.Consumer
	cfg.ReadNodes, cfg.NodesFrom = settings.Nodes, settings.NodesFrom()
	cfg.Queues = slices.Clone(cfg.Queues)
	for i, p := range d.Processors {
		processor, err := p.Open(d.Log)
		if err != nil {
			return err
		}
		if closer, ok := processor.(io.Closer); ok {
			d.teardown.add(step{name: "the processor of queue " + p.Queue.Name, close: closer.Close, waits: true})
		}
		cfg.Queues[i].Processor = processor
	}
	cfg.Telemetry = consumer.Telemetry{
		TracerProvider: d.telemetry.TracerProvider, MeterProvider: d.telemetry.MeterProvider, Propagator: d.telemetry.Propagator, Link: d.TraceLink,
	}
	if d.database != nil {
		cfg.Database, cfg.Outbox = d.database, d.database
	}
	if d.states != nil {
		cfg.Observer = d.states
	}
	d.consumer, err = consumer.New(cfg, d.Log)
	return err
}

// startAdmin starts the admin server, with the API.
func (d *daemon) startAdmin(ctx context.Context) error {
	api := httpapi.Config{
		Program: d.program.Name, Queues: d.QueueNames(), Publish: d.consumer.Publish, MaxBodyBytes: int64(d.MaxBody), BasePath: d.Admin.BasePath, Propagator: d.telemetry.Propagator,
	}
	if d.states != nil {
		api.Store = d.states
	}
	cfg := d.Admin
	cfg.Metrics, cfg.Healthy, cfg.Ready = d.telemetry.Metrics, d.consumer.Healthy, d.readiness
	cfg.API = apiRoutes(httpapi.Routes(api, d.Log))
	served, err := d.openPage()
	if err != nil {
		return err
	}
	if served != nil {
		cfg.Page = served
	}
	server, err := telemetry.NewAdmin(cfg, d.Log)
	if err != nil {
		return err
	}
	d.Log.Info("admin server listens", "addr", server.Addr())
	d.teardown.start(ctx, "the admin server", func(ctx context.Context) {
		if err := server.Run(ctx); err != nil {
			d.Log.Error("the admin server has ended, the work goes on", "error", err)
		}
	})
	if served != nil { // closed first: its streams would keep the server
		d.teardown.add(step{name: "the page", close: served.Close})
		d.Log.Info("the page is served", "path", d.Admin.BasePath+"/ui/")
	}
	return nil
}

// openPage opens the page under /ui/, if somebody may see it.
func (d *daemon) openPage() (*page.Page, error) {
	tokens := page.Tokens{View: d.Admin.Tokens.View, Operate: d.Admin.Tokens.Operate, Admin: d.Admin.Tokens.Admin}
	if !tokens.Any() {
		return nil, nil //nolint:nilnil // there is none
	}
	cfg := page.Config{
		Program: d.program.Name, Version: d.program.Version, Tokens: tokens, Addr: d.Admin.Addr, BasePath: d.Admin.BasePath, Hosts: d.Admin.Hosts,
		Nodes: settings.Nodes, User: d.Consumer.User, Queues: d.QueueNames(), TraceURL: d.TraceURL, Archives: page.ArchivesFolder(), Settings: d.Changed,
	}
	if d.states != nil {
		cfg.State = d.states.State
	}
	return page.New(cfg, d.Log)
}

// apiRoutes are the routes of the API with who may use them.
func apiRoutes(routes []httpapi.Route) []telemetry.Route {
	out := make([]telemetry.Route, len(routes))
	for i, r := range routes {
		out[i] = telemetry.Route{Pattern: r.Pattern, Role: telemetry.Role(r.For), Handler: r.Handler}
	}
	return out
}

// flush ends the telemetry last: the last spans are what an operator most needs to see.
// Yet it stays within the time that systemd has been told it all takes.
func (d *daemon) flush(ctx context.Context) {
	left := leastFlush
	if at := d.stopped.Load(); at != 0 {
		left = max(left, time.Until(time.Unix(0, at).Add(d.Consumer.ShutdownTimeout)))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), left)
	defer cancel()
	d.telemetry.Shutdown(ctx)
}
