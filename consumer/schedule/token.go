package schedule

import (
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// Headers of the messages that a schedule publishes, and of its token.
const (
	headerSchedule     = "x-warren-schedule"      // its name
	headerScheduledFor = "x-warren-scheduled-for" // the planned time, Unix milliseconds

	headerDone     = "x-warren-schedule-done" // Unix milliseconds
	headerRule     = "x-warren-schedule-rule"
	headerVersions = "x-warren-schedule-versions"

	headerOwnRule = "x-warren-schedule-own-rule" // that of whoever published the token
)

// Bounds of a record. A token is read even if it is not as Warren writes it, and what is
// read is published again.
const (
	maxVersions    = 100 // that a schedule which fires once remembers
	maxVersion     = 200 // bytes
	maxRule        = 1000
	furthestRecord = 366 * 24 * time.Hour // ahead of the clock
)

// oldestRecord is before all that Warren ever fired.
var oldestRecord = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// A record is what is known of the past of a schedule. It lasts in the broker, in the
// token.
type record struct {
	done     time.Time // up to where all planned times are done; zero means unknown
	rule     string    // what they followed
	versions []string  // those for which a schedule that fires once has fired, the oldest first
}

// recordOf reads a token at now. What is not as Warren writes it is taken for unknown.
func recordOf(d *amqp.Delivery, now time.Time) record {
	var r record
	if ms, ok := broker.Integer(d.Headers[headerDone]); ok {
		if done := time.UnixMilli(ms).UTC(); done.After(oldestRecord) && done.Before(now.Add(furthestRecord)) {
			r.done, r.rule = done, text(d.Headers[headerRule], maxRule)
		}
	}
	versions, _ := d.Headers[headerVersions].([]any)
	for _, v := range versions {
		if version := text(v, maxVersion); version != "" {
			r = r.withVersion(version)
		}
	}
	return r
}

// text is v if that is text of at most so many bytes.
func text(v any, most int) string {
	if s, ok := v.(string); ok && len(s) <= most {
		return s
	}
	return ""
}

func (r record) isEmpty() bool { return r.done.IsZero() && len(r.versions) == 0 }

// until is r as far as it has come to pass at now.
func (r record) until(now time.Time) record {
	if r.done.After(now) {
		r.done = now.Truncate(time.Millisecond).UTC()
	}
	return r
}

// merged is all that r and other know between them.
func (r record) merged(other record) record {
	if other.done.After(r.done) {
		r.done, r.rule = other.done, other.rule
	}
	for _, v := range other.versions {
		r = r.withVersion(v)
	}
	return r
}

func (r record) withVersion(version string) record {
	if !slices.Contains(r.versions, version) {
		r.versions = append(slices.Clip(r.versions), version)
		r.versions = r.versions[max(0, len(r.versions)-maxVersions):]
	}
	return r
}

// token is the message that carries r to whoever leads next, from a process in which the
// schedule has a rule of its own.
func (r record) token(schedule, ownRule, id string) amqp.Publishing {
	headers := amqp.Table{headerSchedule: schedule, headerOwnRule: ownRule}
	if !r.done.IsZero() {
		headers[headerDone], headers[headerRule] = r.done.UnixMilli(), r.rule
	}
	if len(r.versions) > 0 {
		versions := make([]any, len(r.versions))
		for i, v := range r.versions {
			versions[i] = v
		}
		headers[headerVersions] = versions
	}
	return amqp.Publishing{Headers: headers, DeliveryMode: amqp.Persistent, MessageId: id, Timestamp: time.Now()}
}

// tokenDeclaration is that of the queue of a schedule's tokens.
func tokenDeclaration(s Schedule, v broker.Version) broker.Declaration {
	d := broker.DeclareTokens(s.tokenQueue(), v)
	d.Remedies = &broker.Remedies{
		Missing:      "declare it as the documentation lists, or set WARREN_QUEUE_<NAME>_DECLARE=true for one of the queues",
		NotPermitted: "grant it with rabbitmqctl set_permissions, or declare it elsewhere and set WARREN_QUEUE_<NAME>_DECLARE=false for every queue",
		Differs: func(string) string {
			return "stop all daemons that have the schedule and delete the queue: it then begins anew"
		},
	}
	return d
}
