package main

import "slices"

// slack is how long after the end of an attempt its acknowledgement, or the copy that
// waits for the next one, may be on its way, on a machine that is short of time.
const slack = 10_000_000

// notice is how long after its end a fault may come to be noticed: what the broker has said
// meanwhile is still to be read.
const notice = 2_000_000

// What a fault does to a worker.
const (
	ends      = "ends"      // it is gone, with all that it knew
	leaves    = "leaves"    // it finishes what it has begun, if that does not take too long
	separates = "separates" // its connection is lost, or what is written to it is
	delays    = "delays"    // what is written arrives late
)

// effects of each kind of fault that can be the cause of a repeat; no other kind is one.
var effects = map[string]string{
	"worker killed":      ends,
	"worker stopped":     leaves,
	"worker paused":      separates,
	"link cut":           separates,
	"link refused":       separates,
	"link stalled":       separates,
	"link half-open out": separates,
	"link half-open in":  separates,
	"link slow":          delays,
	"connections closed": separates,
	"node paused":        separates,
	"node killed":        separates,
	"node restarted":     separates,
	"two nodes killed":   separates,
	"node drained":       separates,
	"node frozen":        separates,
	"node cut off":       separates,
	"node vanished":      separates,
	"memory alarm":       delays,
	// The broker ends connections that publish to a queue in the moment of its end.
	"wait queues deleted":       separates,
	"dead-letter queue deleted": separates,
}

// The allowed causes of a repeat.
const (
	workerKilled = "the worker was killed between the work and its acknowledgement"
	cutShort     = "the work was cut short at the shutdown timeout"
	handedOver   = "the connection was lost before the acknowledgement had arrived, and another worker was handed the message"
	copyTwice    = "a copy that waits was published again because its confirm was lost"
	firedTwice   = "a schedule's leader or its connection was lost while it fired"
)

// cause returns why the attempt r of m was allowed although others came before it; empty
// if nothing allows it.
func (j *judgement) cause(m *message, before []*attempt, r *attempt) string {
	for i, e := range slices.Backward(before) {
		end := e.ended
		if end == 0 {
			end = r.begun
		}
		// The same process knows what it has done, and what it is doing.
		switch hit := j.hit(e.worker, e.begun, end+slack, r.begun); {
		case hit[ends]:
			return workerKilled
		case hit[leaves] && e.ended == 0:
			return cutShort
		case hit[separates] && e.worker != r.worker:
			return handedOver
		}
		if e.failed { // a copy of it was published, and again if it waited in several steps
			next := r.begun
			if i+1 < len(before) {
				next = before[i+1].begun
			}
			if hit := j.hit("", e.begun, next, r.begun); hit[ends] || hit[separates] {
				return copyTwice
			}
		}
	}
	hit := j.hit("", m.published-slack, before[0].begun+slack, r.begun)
	switch {
	case !hit[ends] && !hit[separates]:
		return ""
	case m.fired():
		return firedTwice
	case m.waits:
		return copyTwice
	}
	return ""
}

// hit returns what faults did to a worker, or to any if it has no name, from one moment
// to another that is later by as long as what it wrote was delayed, but before limit.
func (j *judgement) hit(worker string, from, to, limit int64) map[string]bool {
	found := make(map[string]bool)
	for _, f := range j.faults {
		switch effect := effects[f.Kind]; {
		case effect == "" || worker != "" && f.Worker != "" && f.Worker != worker:
		case f.At > min(to, limit) || f.Until+notice < from:
		case effect == delays:
			to = max(to, f.Until+slack)
		default:
			found[effect] = true
		}
	}
	return found
}
