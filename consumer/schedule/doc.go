// Package schedule publishes messages at planned times: each once, however many
// processes have the schedule, and with nothing but the broker to agree on that.
//
// # Who runs what
//
//	Runner.Run: keeps one connection for all schedules
//	  └─ loop.run, one per schedule, for as long as Run: takes part in the election of
//	       the schedule's leader, a term after another
//	       └─ term.serve: one channel; the sole user of that and of what is known of the past
//
// A schedule's leader is whoever has been handed the token of its queue, in which the
// broker keeps what is done. The loop says how that makes one firing of each planned
// time. A fault of a channel ends the term of that schedule alone; the connection is
// dialled again only when it is lost, or when another node is to be used.
package schedule
