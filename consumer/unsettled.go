package consumer

import "sort"

// unsettled are the deliveries of one channel that the broker waits to hear of,
// in the order of their tags. There are never more than the prefetch.
type unsettled struct {
	entries  []unsettledEntry
	finished int // of them
}

type unsettledEntry struct {
	job      *job
	finished bool // to be acknowledged at the next flush
}

// add takes note of a delivery; its tag is higher than any before.
func (u *unsettled) add(j *job) {
	u.entries = append(u.entries, unsettledEntry{job: j})
}

// find returns the place of a tag that is there.
func (u *unsettled) find(tag uint64) int {
	return sort.Search(len(u.entries), func(i int) bool {
		return u.entries[i].job.delivery.DeliveryTag >= tag
	})
}

// finish marks the delivery as one to acknowledge.
func (u *unsettled) finish(tag uint64) {
	u.entries[u.find(tag)].finished = true
	u.finished++
}

// remove forgets a delivery that was settled in another way.
func (u *unsettled) remove(tag uint64) {
	i := u.find(tag)
	u.entries = append(u.entries[:i], u.entries[i+1:]...)
}

// flush acknowledges what is finished: all from the oldest on with one
// multiple-ack, what is finished behind an unfinished one by itself. It gives the
// jobs that ack failed for to lost, the others to sent.
func (u *unsettled) flush(ack func(tag uint64, multiple bool) error, sent, lost func(*job)) {
	if u.finished == 0 {
		return
	}
	run := 0
	for run < len(u.entries) && u.entries[run].finished {
		run++
	}
	if run > 0 {
		// Every older delivery of the channel is finished, so that multiple
		// reaches none that is still worked on.
		then := sent
		if err := ack(u.entries[run-1].job.delivery.DeliveryTag, run > 1); err != nil {
			then = lost
		}
		for _, e := range u.entries[:run] {
			then(e.job)
		}
	}
	u.finished = 0
	rest := u.entries[:0]
	for _, e := range u.entries[run:] {
		if !e.finished {
			rest = append(rest, e)
		} else if err := ack(e.job.delivery.DeliveryTag, false); err != nil {
			lost(e.job)
		} else {
			sent(e.job)
		}
	}
	clear(u.entries[len(rest):])
	u.entries = rest
}
