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
	VerbStatus = "status" // what it is doing, once or for a while
	VerbPaused = "paused" // the pause of a queue has begun or ended
	VerbQuiet  = "quiet"  // finish what is in flight, take nothing more, stay
	VerbWork   = "work"   // the opposite
	VerbCancel = "cancel" // end the attempt at a message, and dead-letter that
	VerbLevel  = "level"  // have the log of another level for a while
)

const (
	// WatchEvery is how often a status is sent that is wanted for a while, unless it is
	// wanted less often.
	WatchEvery = 2 * time.Second
	// MaxWatchEvery is the longest time from one status to the next.
	MaxWatchEvery = 8 * WatchEvery
	// MaxWatch is the longest such while.
	MaxWatch = 30 * time.Second
	// MaxLevel is for how long the level of the log may be changed.
	MaxLevel = 24 * time.Hour
	// MaxAttempts is how many attempts the status of a queue has at most.
	MaxAttempts = 100
	// MaxFailures is how many failures it has at most.
	MaxFailures = 20
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
	// MessageID is that of the message to cancel.
	MessageID string `json:"message_id,omitempty"`
	// Why is the reason, for the log and the dead letter.
	Why string `json:"why,omitempty"`
	// Level is that of the log: debug, info, warn or error.
	Level string `json:"level,omitempty"`
	// ForMillis is how long the level lasts, or the status is sent.
	ForMillis int64 `json:"for_ms,omitempty"`
	// EveryMillis is how often it is sent meanwhile, within bounds; 0: each WatchEvery.
	EveryMillis int64 `json:"every_ms,omitempty"`
	// Attempts and Failures are how many of each queue the status is to have.
	Attempts int `json:"attempts,omitempty"`
	Failures int `json:"failures,omitempty"`
}

// Every is how often the status is sent, whatever is asked for.
func (r Request) Every() time.Duration {
	return time.Duration(min(max(r.EveryMillis, WatchEvery.Milliseconds()), MaxWatchEvery.Milliseconds())) * time.Millisecond
}

// An Answer is what a daemon has done or is doing. As of a request, what whoever reads it
// does not know is ignored, and what an older daemon does not say is empty: a daemon and an
// operator of two versions understand each other.
type Answer struct {
	Daemon Daemon `json:"daemon"`
	// Error is why it has not done what was asked; empty if it has.
	Error string `json:"error,omitempty"`
	// Done is how many messages or daemons that has concerned.
	Done   int     `json:"done,omitempty"`
	Status *Status `json:"status,omitempty"`
}

// A Status is what a daemon is doing. All of it is since its start and by its own clock.
type Status struct {
	At        time.Time     `json:"at"`
	Node      string        `json:"node"`   // that it is connected to
	Broker    string        `json:"broker"` // its version
	Level     string        `json:"level,omitempty"`
	Quiet     *Pause        `json:"quiet,omitempty"` // who has it take no messages; nil: it does
	Queues    []QueueStatus `json:"queues"`
	Schedules []Schedule    `json:"schedules,omitempty"`
}

// A QueueStatus is how one queue stands with a daemon.
type QueueStatus struct {
	Queue       string    `json:"queue"`
	Reason      string    `json:"reason,omitempty"` // why it is not consumed; empty if it is, or is paused
	Paused      *Pause    `json:"paused,omitempty"`
	BrakedSince time.Time `json:"braked_since,omitzero"`
	Fault       string    `json:"fault,omitempty"` // for which it is braked
	// Settings is a digest of its variables, but for secrets.
	Settings string `json:"settings,omitempty"`
	InFlight int64  `json:"in_flight"`
	Slots    int    `json:"slots"`
	// Counts are how many attempts have come to each verdict.
	Counts   map[string]int64 `json:"counts"`
	Attempts []Attempt        `json:"attempts,omitempty"` // under way, the oldest first
	Failures []Failure        `json:"failures,omitempty"` // the newest first
}

// An Attempt is one that is under way.
type Attempt struct {
	MessageID string    `json:"message_id"`
	Attempt   int       `json:"attempt"`
	Began     time.Time `json:"began"`
	// InVain is how often the broker counts the message as handed out in vain before.
	InVain int64 `json:"in_vain,omitempty"`
	// TraceID is its trace; empty if it has none that is kept, or its daemon is older.
	TraceID string `json:"trace_id,omitempty"`
}

// A Failure is an attempt that has failed.
type Failure struct {
	At        time.Time `json:"at"`
	MessageID string    `json:"message_id"`
	Attempt   int       `json:"attempt"`
	Verdict   string    `json:"verdict"`
	Error     string    `json:"error"`
}

// A Schedule is how one schedule stands with a daemon.
type Schedule struct {
	Schedule string    `json:"schedule"`
	Leading  bool      `json:"leading"`
	Next     time.Time `json:"next,omitzero"`
	Last     time.Time `json:"last,omitzero"` // the planned time that it has fired last
	// AheadMillis is how far what is done lies ahead of the daemon's clock: nothing is fired
	// until then.
	AheadMillis int64  `json:"ahead_ms,omitempty"`
	Fault       string `json:"fault,omitempty"`
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
