// Package consumer works the queues of a RabbitMQ cluster: it hands each delivery
// to a [Processor], acknowledges it only after success, has what fails wait in the
// broker for its next attempt, and keeps what cannot succeed in a dead-letter
// queue.
//
// # Who runs what
//
//	Run ─ supervise: one session at a time, a connection to consume and one to publish
//	  ├─ queueLoop.run, one per queue, for as long as Run: sole user of its channel,
//	  │    its unsettled tags, its count of busy workers and what it remembers
//	  │    └─ worker.work, at most Concurrency: one delivery each, from its headers to
//	  │         its verdict; publishes; sends one result; never touches the channel
//	  ├─ scheduleLoop.run, one per schedule: sole user of a connection of its own
//	  ├─ relay.run, with an Outbox: publishes what is in it
//	  └─ enforce: the shutdown timeout
//
//	broker ─ deliveries ─▶ queueLoop ─ go ─▶ worker ─ results ─▶ queueLoop ─ ack, nack ─▶ broker
//	                                          └─ retry, dead letter, reply ─ confirm ─▶ broker
//
// Whoever starts a goroutine waits for it: Run for its loops, a loop for as many
// results as it has started workers. Only work that outlives the shutdown timeout
// is left behind.
//
// # The way of a delivery
//
// queueLoop.start takes it from the channel and worker.work to its verdict;
// whatever has to be published for it, to a wait queue, the dead-letter queue or
// its reply-to, is confirmed by the broker before queueLoop.settle acknowledges it.
// Config.Observer, if there is one, is told of each step. A delivery whose publish
// fails is given back. So a message may be worked twice,
// when a connection or process dies between the two, and is never lost.
//
// A session is thrown away with its connections. Work that is under way then goes
// on and keeps its slot; what it comes to cannot be acknowledged any more, because
// its tag means nothing to another channel. Its message is remembered instead, and
// acknowledged unrun when the broker hands it out again.
//
// # Schedules
//
// A schedule's leader is whoever has been handed the token of its queue, in which the
// broker keeps what is done. scheduleLoop says how that makes one firing of each
// planned time.
package consumer
