// Command checker reads ledgers and decides whether anything was lost, repeated without a
// cause, or left behind. It knows nothing of Warren but what those who saw it at work have
// written down, and imports nothing of it.
//
// A ledger is a file of JSON objects, one a line, each appended whole. Every event has at
// (Unix microseconds) and event, which is one of:
//
//	published  queue, id       somebody is about to publish a message; waits: it may wait in the broker
//	                           before it is worked; fate: how it is to end, "done" if not set, "dead", or "either"
//	confirmed  queue, id       the broker has confirmed it
//	begun      queue, id       worker began with attempt
//	done       queue, id       and ended it well; exact: its effect may not be there twice
//	failed     queue, id       and ended it otherwise
//	dead       queue, id       it was in the dead-letter queue at the end
//	deleted    queue, id       somebody has deleted it, with the queue that it was in; without an id: count of them,
//	                           and what was on its way there from at to until
//	schedule   id, every       a schedule by this name that fires from at to until, at multiples of every (microseconds)
//	row        queue, id       a message was committed to the outbox
//	arrived    queue, id       it was in the queue that it was for; in the order of that
//	fault      kind, until     somebody did damage; worker: to one of them, else to all
//	left       queue           what a queue had at the end: ready, unacked, consumers, and wanted of these
//	measured   kind, worker    before and after: goroutines, channels, bytes of memory
//
// A worker is a process, and named anew each time that it is started. What ends without
// having been begun was begun when it ended.
package main
