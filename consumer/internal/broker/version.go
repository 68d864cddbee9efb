package broker

import (
	"fmt"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Version is what Warren has to know of the RabbitMQ that it is connected to.
// Whatever depends on the version is decided here.
type Version struct {
	Number string
	// NackCounts is true if a delivery that is requeued counts toward the delivery
	// limit, as it did until 4.3 split the ways to settle.
	NackCounts bool
	// TimeoutPolicy and TimeoutArgument are true if a policy of a queue, and an argument of
	// a consumer, may say how long a delivery may be unacknowledged.
	TimeoutPolicy, TimeoutArgument bool
	// DisconnectedArgument is true if messages of a consumer on a node that is gone stay with
	// it for a minute, unless an argument of the queue says otherwise; before 4.3 they are
	// returned at once.
	DisconnectedArgument bool
	// Returns is how many messages are in their order when they are requeued by one frame.
	Returns int
}

func versionOf(conn *amqp.Connection) Version {
	number, _ := conn.Properties["version"].(string)
	returns := 32
	if atLeast(number, 4, 0) {
		returns = maxBatch
	}
	return Version{
		Returns: returns,
		Number:  number, NackCounts: !atLeast(number, 4, 3),
		TimeoutPolicy: atLeast(number, 3, 12), TimeoutArgument: atLeast(number, 4, 3), DisconnectedArgument: atLeast(number, 4, 3),
	}
}

// finding says of which version a node is, what that cannot do, and whether anybody still
// cures its faults.
func (v Version) finding(node, vhost string) Finding {
	f := Finding{Severity: SeverityOK, What: node, Text: fmt.Sprintf("RabbitMQ %s, virtual host %s", v.Number, vhost)}
	if v.NackCounts {
		f.Severity = SeverityNote
		f.Text += ", a series for which its makers have no more free releases"
		f.Why = "faults of it stay; a delivery that is returned counts toward the delivery limit"
		if v.TimeoutPolicy {
			f.Why += ", and how long one may be worked on is for a policy to say"
		} else {
			f.Why += ", and how long one may be worked on is for rabbitmq.conf to say"
		}
		f.Cure = "upgrade to RabbitMQ 4.3, or have it from a distribution that cures its faults"
	}
	return f
}

// atLeast compares the first two numbers of a version. One that cannot be read is
// taken for an old one, whose rules are the stricter.
func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(parts[1])
	if errA != nil || errB != nil {
		return false
	}
	return a > major || a == major && b >= minor
}
