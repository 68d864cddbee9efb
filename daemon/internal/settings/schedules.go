package settings

import (
	"errors"
	"time"
	_ "time/tzdata" // where there is no /usr/share/zoneinfo

	"github.com/warrenmq/warren/consumer/jsonvalue"
	"github.com/warrenmq/warren/consumer/schedule"
)

// scheduleSettings are the variables of each schedule.
type scheduleSettings struct {
	Every       time.Duration `envconfig:"EVERY" desc:"Fire every so often, in whole seconds: 30s, 24h. One of EVERY, CRON and ONCE is set."`
	Cron        string        `envconfig:"CRON" desc:"Fire at the times of a cron expression: five fields, six with seconds before them, or @daily and the like."`
	Once        bool          `envconfig:"ONCE" default:"false" desc:"Fire when the first daemon of each version starts."`
	TZ          string        `envconfig:"TZ" desc:"The time zone of CRON, such as Europe/Berlin; not set, UTC. CRON_TZ=Europe/Berlin before the expression says the same."`
	Queue       string        `envconfig:"QUEUE" desc:"The queue that the message is published to."`
	Body        string        `envconfig:"BODY" secret:"true" desc:"The body of the message; BODY_FILE names a file with it, read at the start."`
	ContentType string        `envconfig:"CONTENT_TYPE" default:"application/json" desc:"The body's media type."`
	Type        string        `envconfig:"TYPE" desc:"The message's type, which the processor is told."`
	Headers     jsonObject    `envconfig:"HEADERS" secret:"true" desc:"Headers of the message, as a JSON object."`
	Jitter      time.Duration `envconfig:"JITTER" desc:"Delay each firing by a part of this, so that not all schedules fire at once; less than the time between two firings."`
	Misfire     string        `envconfig:"MISFIRE" default:"once" desc:"What is fired of the times that passed while no daemon ran: all, once (the newest) or skip (none that is a minute late)."`
}

// A jsonObject is a variable that holds a JSON object. Whole numbers in it are int64.
type jsonObject map[string]any

// Decode reads the object. Its error does not show it.
func (o *jsonObject) Decode(value string) error {
	if value == "" {
		return nil
	}
	object, err := jsonvalue.Object(value)
	if err != nil {
		return errors.New(`it must be a JSON object, such as {"tenant": "a", "x-delay": 5000}`)
	}
	*o = object
	return nil
}

// readSchedule reads the variables of a schedule. It reports false if one of them
// cannot be read: what it says as a whole cannot be looked at then.
func readSchedule(r *reader, name string) (schedule.Schedule, bool) {
	prefix := envPrefix("schedule", name)
	var s scheduleSettings
	if !r.know("schedule "+name, prefix, &s) || !r.read(prefix, &s) {
		return schedule.Schedule{}, false
	}
	return schedule.Schedule{
		Name:        name,
		Every:       s.Every,
		Cron:        s.Cron,
		Once:        s.Once,
		TimeZone:    s.TZ,
		Jitter:      s.Jitter,
		Misfire:     s.Misfire,
		Queue:       s.Queue,
		Body:        []byte(s.Body),
		ContentType: s.ContentType,
		Type:        s.Type,
		Headers:     s.Headers,
		EnvPrefix:   prefix,
	}, true
}
