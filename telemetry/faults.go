package telemetry

import (
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// A faultLog logs a fault when it begins and when it ends, however many errors come
// between. It may be used by several goroutines.
type faultLog struct {
	log          *slog.Logger
	began, ended string // messages
	// quiet is how long after its last error the fault is over. Zero: end alone says so.
	quiet time.Duration

	mu    sync.Mutex
	since time.Time // zero: there is none
	count int
	timer *time.Timer // nil until it is needed
}

// Handle logs the first of a row of errors.
func (f *faultLog) Handle(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if f.since.IsZero() {
		f.since = time.Now()
		f.log.Warn(f.began, "error", err) //nolint:sloglint // one of two constants
	}
	switch {
	case f.quiet == 0:
	case f.timer == nil:
		f.timer = time.AfterFunc(f.quiet, f.end)
	default:
		f.timer.Reset(f.quiet)
	}
}

func (f *faultLog) isOn() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.since.IsZero()
}

// end logs that the fault is over, if there is one.
func (f *faultLog) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.since.IsZero() {
		lasted := time.Since(f.since) - f.quiet
		f.log.Info(f.ended, "failures", f.count, "duration", lasted.Round(time.Millisecond)) //nolint:sloglint // one of two constants
		f.since, f.count = time.Time{}, 0
	}
}

// stop keeps a quiet fault from ending later.
func (f *faultLog) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		f.timer.Stop()
	}
}

// sdkLog takes what OpenTelemetry writes to standard error otherwise. It keeps only
// which step failed: the rest quotes variables whole, and OTEL_EXPORTER_OTLP_HEADERS
// holds tokens.
type sdkLog struct{ log *slog.Logger }

var _ logr.LogSink = sdkLog{}

func (s sdkLog) Error(_ error, step string, _ ...any) {
	s.log.Error("opentelemetry cannot use one of the OTEL_ variables", "step", step)
}
func (sdkLog) Init(logr.RuntimeInfo)            {}
func (sdkLog) Enabled(int) bool                 { return false }
func (sdkLog) Info(int, string, ...any)         {}
func (s sdkLog) WithValues(...any) logr.LogSink { return s }
func (s sdkLog) WithName(string) logr.LogSink   { return s }
