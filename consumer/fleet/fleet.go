// Package fleet sees and steers all daemons of a virtual host through the broker, which
// all of them reach: from any machine that reaches it, too, with no port of a daemon open.
//
// What is asked is published to the exchange [Exchange], to which each daemon has bound a
// queue of its own, and bears the name of its user, which the broker checks. A daemon does
// what is asked by the users that it has been told to obey, writes that into its log, and
// answers to the queue of whoever has asked.
package fleet

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/halt"
)

const (
	// Exchange is what requests are published to.
	Exchange = broker.ControlExchange
	// ReplyPrefix begins the names of the queues that daemons answer to, and no others.
	ReplyPrefix = broker.OwnPrefix + "reply."
	// MaxRequestBytes is the longest request that a daemon reads.
	MaxRequestBytes = 16 << 10
)

// What may be asked.
const (
	VerbPaused = "paused" // the pause of a queue has begun or ended
)

// A Pause is that of a queue by the whole fleet, or of all queues by one daemon.
type Pause = halt.Pause

// A Request is what is asked of daemons. What an older one does not know of it, it
// ignores.
type Request struct {
	Verb string `json:"verb"`
	// Daemons are the names of those that are meant: their hosts, or host/PID. None
	// means all.
	Daemons []string `json:"daemons,omitempty"`
	// From is the host that it is asked from, for the log.
	From string `json:"from,omitempty"`
	// Queue is the work queue that it is about, where it is about one.
	Queue string `json:"queue,omitempty"`
	// Pause is what has been done to Queue. Nil: it has been resumed.
	Pause *Pause `json:"pause,omitempty"`
}

// An Answer is what a daemon has done or is doing.
type Answer struct {
	Daemon Daemon `json:"daemon"`
	// Error is why it has not done what was asked; empty if it has.
	Error string `json:"error,omitempty"`
}

// A Daemon is which one answers.
type Daemon struct {
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Program string    `json:"program"`
	Version string    `json:"version"`
	Began   time.Time `json:"began"`
}

// Name tells the daemon from others: host/PID.
func (d Daemon) Name() string { return d.Host + "/" + strconv.Itoa(d.PID) }

// MayReplyTo tells whether a daemon answers to a queue of that name.
func MayReplyTo(queue string) bool { return strings.HasPrefix(queue, ReplyPrefix) }

// Host is what this machine is called.
func Host() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}
