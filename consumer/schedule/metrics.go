package schedule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/warrenmq/warren/consumer/internal/meters"
)

const attrSchedule = attribute.Key("warren.schedule")

// observe has a provider look at the states of the loops. Nil is nobody.
func (r *Runner) observe(provider metric.MeterProvider) error {
	if provider == nil || len(r.loops) == 0 {
		return nil
	}
	meter := provider.Meter(meters.ScopeName, metric.WithSchemaURL(semconv.SchemaURL))
	var errs []error
	each := func(value func(*state) int64) metric.Int64Callback {
		return func(_ context.Context, o metric.Int64Observer) error {
			for _, l := range r.loops {
				o.Observe(value(&l.state), metric.WithAttributes(attrSchedule.String(l.Name)))
			}
			return nil
		}
	}
	gauge := func(name, unit, description string, value func(*state) int64) {
		_, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description), metric.WithInt64Callback(each(value)))
		errs = append(errs, err)
	}
	counter := func(name, unit, description string, value func(*state) int64) {
		_, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description), metric.WithInt64Callback(each(value)))
		errs = append(errs, err)
	}
	gauge("warren.schedule.leading", "", "1 in the process that fires the schedule, else 0.", func(s *state) int64 {
		if s.leading.Load() {
			return 1
		}
		return 0
	})
	gauge("warren.schedule.last", "s", "The planned time that this process has fired last, in Unix seconds; 0 if it has not.",
		func(s *state) int64 { return s.last.Load() })
	gauge("warren.schedule.lag", "s", "How long a firing has been due in the process that leads; else 0.",
		func(s *state) int64 { return int64(s.lag(time.Now()) / time.Second) })
	gauge("warren.schedule.ahead", "s", "How far the record of what is done lies ahead of the clock of the process that leads, which fires nothing until then; else 0.",
		func(s *state) int64 { return int64(s.aheadOf(time.Now()) / time.Second) })
	counter("warren.schedule.fired", "{message}", "Messages that schedules have published, confirmed.",
		func(s *state) int64 { return s.fired.Load() })
	counter("warren.schedule.misfires", "{misfire}", "How often planned times were found to have passed, and not made up for.",
		func(s *state) int64 { return s.misfires.Load() })
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("make the metrics of schedules: %w", err)
	}
	return nil
}
