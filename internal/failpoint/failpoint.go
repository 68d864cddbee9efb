// Package failpoint names the places where something has happened that nobody knows yet,
// so that a test can end the process there, hold it up, or have it fail. In a build
// without the tag failpoints its functions are empty, and cost nothing.
package failpoint

// A Point is one of these places.
type Point string

// Of a delivery, from the channel that it came on to its settlement.
const (
	Received    Point = "received"
	Started     Point = "started"
	Worked      Point = "worked"
	Resulted    Point = "resulted"
	AckHeld     Point = "ack-held"
	AckSent     Point = "ack-sent"
	Requeued    Point = "requeued"
	Repeated    Point = "repeated"
	ChannelLost Point = "channel-lost"
	Remembered  Point = "remembered"
	Declared    Point = "declared"
	Consumed    Point = "consumed"
	KeptBack    Point = "kept-back"
	StopSettled Point = "stop-settled"
	StopRested  Point = "stop-rested"
)

// Of the database of a delivery.
const (
	InboxAsked      Point = "inbox-asked"
	InboxRecorded   Point = "inbox-recorded"
	TxBegun         Point = "tx-begun"
	TxRecorded      Point = "tx-recorded"
	TxBeforeCommit  Point = "tx-before-commit"
	TxCommitted     Point = "tx-committed"
	StatesGathered  Point = "states-gathered"
	StatesWritten   Point = "states-written"
	OutboxRead      Point = "outbox-read"
	OutboxPublished Point = "outbox-published"
	OutboxDeleted   Point = "outbox-deleted"
	OutboxLed       Point = "outbox-led"
)

// Of a message that is published, each for every purpose: a point is called
// write-wait, confirm-reply and so on.
const (
	Offered   Point = "offer"
	Written   Point = "write"
	Confirmed Point = "confirm"
)

// Of a schedule.
const (
	TokenHanded  Point = "token-handed"
	Claiming     Point = "claiming"
	Claimed      Point = "claimed"
	Leading      Point = "leading"
	FiringDue    Point = "firing-due"
	Fired        Point = "fired"
	TokensMerged Point = "tokens-merged"
)

// A Description is a row of the table in docs/guarantees.md.
type Description struct {
	Point Point
	After string // what has happened, and is not known or not on record yet
	Fails bool   // an error there is one of a call, not the loss of all connections
}

// Descriptions are those of all points.
func Descriptions() []Description {
	d := []Description{
		{Received, "a delivery was taken from its channel", false},
		{Started, "a delivery was given to its executor", false},
		{Worked, "the processor has returned", false},
		{Resulted, "the executor is done, the loop does not know it", false},
		{AckHeld, "work is done, its acknowledgement is not sent", false},
		{AckSent, "an acknowledgement was written, the broker may not have it", false},
		{Requeued, "a delivery was requeued", false},
		{Repeated, "a redelivery was found to be a repeat of finished work", false},
		{ChannelLost, "a channel is lost, with deliveries on it", false},
		{Remembered, "what the lost channel may have settled is remembered", false},
		{Declared, "the queue is declared, not consumed yet", false},
		{Consumed, "the queue is consumed", false},
		{KeptBack, "a stopping daemon has kept back a delivery", false},
		{StopSettled, "a stopping daemon has settled, the broker has not heard of it", false},
		{StopRested, "a stopping daemon has given the broker the time to take them", false},
		{InboxAsked, "the inbox was asked whether the work is done", true},
		{InboxRecorded, "finished work was recorded in the inbox", true},
		{TxBegun, "a transaction has begun", true},
		{TxRecorded, "the transaction has recorded its message", true},
		{TxBeforeCommit, "the work is done, its transaction is open", true},
		{TxCommitted, "the transaction is committed, the attempt does not know it", true},
		{StatesGathered, "states of messages are gathered, not written", true},
		{StatesWritten, "states of messages are written, the writer does not know it", true},
		{OutboxLed, "this process has become the relay", true},
		{OutboxRead, "rows of the outbox were read", true},
		{OutboxPublished, "the broker has rows that the outbox still has", true},
		{OutboxDeleted, "published rows are deleted, the relay does not know it", true},
		{TokenHanded, "a schedule's token has come", false},
		{Claiming, "a schedule's new token is published", false},
		{Claimed, "a schedule's new token has come back, the old ones are there, too", false},
		{TokensMerged, "a schedule's old tokens are acknowledged", false},
		{Leading, "a daemon leads the schedule, nobody knows it", false},
		{FiringDue, "a firing is due", false},
		{Fired, "a firing is published, the token does not say so", false},
	}
	for _, purpose := range []string{"wait", "dead_letter", "reply", "schedule", "outbox"} {
		d = append(d,
			Description{Offered + Point("-"+purpose), "a message is about to be written", false},
			Description{Written + Point("-"+purpose), "a message was written, the broker may not have it", false},
			Description{Confirmed + Point("-"+purpose), "the broker has confirmed a message, its publisher does not know it", false})
	}
	return d
}
