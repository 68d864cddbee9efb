// Package consumer works the queues of a RabbitMQ cluster: it hands each delivery
// to a [Processor], acknowledges it only after success, has what fails wait in the
// broker for its next attempt, and keeps what cannot succeed in a dead-letter
// queue.
//
// # Who runs what
//
//	Run ─ supervise: one session at a time, a connection to consume and one to publish
//	  ├─ queueLoop.run, one per queue, for as long as Run: sole user of its channel, its
//	  │    unsettled tags, its count of busy slots, its orphans and what it remembers
//	  │    └─ executor.work, at most Concurrency: one delivery each, from its headers to
//	  │         its verdict; publishes; sends one result; never touches the channel
//	  ├─ schedule.Runner.Run: all schedules, on a connection of their own
//	  ├─ relay.Relay.Run, with an Outbox: publishes what is in it, on its own connection
//	  └─ enforce: the shutdown timeout
//
//	broker ─ deliveries ─▶ queueLoop ─ job ─▶ executor ─ results ─▶ queueLoop ─ ack, nack ─▶ broker
//	                                           └─ retry, dead letter, reply ─ confirm ─▶ broker
//
// Whoever starts a goroutine waits for it: Run for its loops, a loop for its workers and
// as many results as it has begun jobs, a connection for what is published on it. Only
// work that outlives the shutdown timeout is left behind.
//
// # The way of a delivery
//
// queueLoop.start takes it from the channel and executor.work to its verdict; whatever
// has to be published for it, to a wait queue, the dead-letter queue or its reply-to, is
// confirmed by the broker before queueLoop.settle acknowledges it. What cannot be
// published now is offered again, over whichever session there is: the work is not
// repeated for that. So a message may be worked twice, when a process dies between its
// work and its acknowledgement, and is never lost. CONTRIBUTING.md follows one delivery
// from function to function.
//
// A session is thrown away with its connections. Work that is under way then goes on, as
// an orphan, and keeps its slot; its tag means nothing to another channel. If the broker
// hands its message out again meanwhile, that delivery is held until the orphan has ended
// and is settled in its place; afterwards the message is remembered, and acknowledged
// unrun. A copy that had to be published twice is told by its name, [remembered.Copies].
//
// # Packages below
//
// internal/broker is one connection's worth of AMQP: dial, declare, publish with confirms,
// and what the broker's errors mean. schedule, database, state and httpapi stand beside
// the life of a delivery and need none of it.
package consumer
