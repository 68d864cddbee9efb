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
)

// maxVersions bounds how many versions a schedule that fires once remembers.
const maxVersions = 100

// A record is what is known of the past of a schedule. It lasts in the broker, in the
// token.
type record struct {
	done     time.Time // up to where all planned times are done; zero means unknown
	rule     string    // what they followed
	versions []string  // those for which a schedule that fires once has fired, the oldest first
}

// recordOf reads a token. What is not as Warren writes it is taken for unknown.
func recordOf(d *amqp.Delivery) record {
	var r record
	if done, ok := broker.Integer(d.Headers[headerDone]); ok {
		r.done = time.UnixMilli(done).UTC()
	}
	r.rule, _ = d.Headers[headerRule].(string)
	versions, _ := d.Headers[headerVersions].([]any)
	for _, v := range versions {
		if version, ok := v.(string); ok {
			r.versions = append(r.versions, version)
		}
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

// token is the message that carries r to whoever leads next.
func (r record) token(schedule, id string) amqp.Publishing {
	headers := amqp.Table{headerSchedule: schedule}
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
	return amqp.Publishing{Headers: headers, DeliveryMode: amqp.Persistent, MessageId: id, AppId: "warren", Timestamp: time.Now()}
}

// tokenDeclaration is that of the queue of a schedule's tokens.
func tokenDeclaration(s Schedule) broker.Declaration {
	d := broker.DeclareQueue(s.tokenQueue(), broker.TokenArguments())
	d.Remedies = &broker.Remedies{
		Missing:      "declare it as the documentation lists, or set WARREN_QUEUE_<NAME>_DECLARE=true for one of the queues",
		NotPermitted: "grant it with rabbitmqctl set_permissions, or declare it elsewhere and set WARREN_QUEUE_<NAME>_DECLARE=false for every queue",
		Differs: func(string) string {
			return "stop all daemons that have the schedule and delete the queue: it then begins anew"
		},
	}
	return d
}
