package unsettled

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
)

type sentAck struct {
	tag      uint64
	multiple bool
}

func flushed(u *Deliveries[uint64]) []sentAck { return flushedSome(u, true) }

func flushedSome(u *Deliveries[uint64], all bool) []sentAck {
	var acks []sentAck
	u.Flush(all, func(tag uint64, multiple bool) error {
		acks = append(acks, sentAck{tag, multiple})
		return nil
	}, func(uint64) {}, func(uint64) {})
	return acks
}

func TestFlushAcknowledgesTheOldestTogetherAndOthersAlone(t *testing.T) {
	var u Deliveries[uint64]
	for tag := range uint64(8) {
		u.Add(tag+1, tag+1)
	}
	for _, tag := range []uint64{1, 2, 3, 5, 7} {
		u.Finish(tag)
	}
	equal(t, flushed(&u), []sentAck{{3, true}, {5, false}, {7, false}})
	equal(t, flushed(&u), nil)
	u.Remove(6) // given back
	u.Finish(4)
	equal(t, flushed(&u), []sentAck{{4, false}})
	u.Finish(8)
	equal(t, flushed(&u), []sentAck{{8, false}})
	equal(t, len(u.entries), 0)
}

// What is finished behind an unfinished one may wait for that, but for one flush only.
func TestFlushLeavesWhatMaySoonBeAcknowledgedTogether(t *testing.T) {
	var u Deliveries[uint64]
	for tag := range uint64(5) {
		u.Add(tag+1, tag+1)
	}
	for _, tag := range []uint64{1, 3, 4} {
		u.Finish(tag)
	}
	equal(t, flushedSome(&u, false), []sentAck{{1, false}})
	equal(t, u.Finished(), 2)
	equal(t, u.Fresh(), 0)
	u.Finish(2)
	equal(t, u.Fresh(), 1)
	equal(t, flushedSome(&u, false), []sentAck{{4, true}})
	equal(t, u.Finished(), 0)

	u.Add(6, 6)
	u.Finish(6)
	equal(t, flushedSome(&u, false), nil)
	equal(t, flushedSome(&u, false), []sentAck{{6, false}})
	equal(t, u.Len(), 1)
}

func TestFlushGivesWhatCouldNotBeAcknowledgedToLost(t *testing.T) {
	var u Deliveries[uint64]
	for tag := range uint64(4) {
		u.Add(tag+1, tag+1)
	}
	u.Finish(1)
	u.Finish(2)
	u.Finish(4)
	var lost []uint64
	u.Flush(true, func(uint64, bool) error { return errors.New("closed") }, func(uint64) { t.Error("counted as sent") }, func(tag uint64) { lost = append(lost, tag) })
	equal(t, lost, []uint64{1, 2, 4})
}

// A delivery of the consumer before can come to be read ahead of older ones of its
// successor: those are neither acknowledged with it, nor taken for it.
func TestDeliveriesThatOvertakeOthers(t *testing.T) {
	var u Deliveries[uint64]
	u.Add(1, 1)
	u.Add(3, 3)
	u.Finish(1)
	u.Finish(3)
	equal(t, flushed(&u), []sentAck{{1, false}, {3, false}})
	u.Add(5, 5)
	u.Add(2, 2)
	u.Add(4, 4)
	u.Finish(4)
	equal(t, flushed(&u), []sentAck{{4, false}})
	u.Remove(2)
	u.Finish(5)
	equal(t, flushed(&u), []sentAck{{5, false}})
	u.Add(6, 6)
	u.Add(7, 7)
	u.Finish(6)
	u.Finish(7)
	equal(t, flushed(&u), []sentAck{{7, true}})
}

// TestFlushLikeTheBroker holds thousands of random histories against what a
// broker makes of the acknowledgements: each delivery is settled once, and none
// that has not finished. It hands them out to two consumers of the channel, of which
// one is read before the other.
func TestFlushLikeTheBroker(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		var u Deliveries[uint64]
		atBroker := map[uint64]bool{} // unsettled tags; true: finished
		read := map[uint64]bool{}
		var next uint64
		var consumers [2][]uint64
		for range 90 {
			switch random.IntN(6) {
			case 0, 1:
				next++
				atBroker[next] = false
				c := &consumers[max(0, random.IntN(4)-2)]
				*c = append(*c, next)
			case 2, 3:
				for i, c := range consumers {
					if len(c) > 0 {
						u.Add(c[0], c[0])
						read[c[0]], consumers[i] = true, c[1:]
						break
					}
				}
			case 4:
				for tag, finished := range atBroker {
					if !read[tag] {
						continue
					}
					if !finished && random.IntN(3) == 0 {
						u.Remove(tag)
						delete(atBroker, tag)
					} else if !finished {
						u.Finish(tag)
						atBroker[tag] = true
					}
					break
				}
			case 5:
				all := random.IntN(2) == 0
				for _, a := range flushedSome(&u, all) {
					if _, there := atBroker[a.tag]; !there {
						t.Fatalf("seed %d: tag %d acknowledged, which the broker does not know", seed, a.tag)
					}
					for tag, finished := range atBroker {
						if tag != a.tag && (!a.multiple || tag > a.tag) {
							continue
						}
						if !finished {
							t.Fatalf("seed %d: ack of %d (multiple %v) settles %d, which is not finished", seed, a.tag, a.multiple, tag)
						}
						delete(atBroker, tag)
					}
				}
				left := 0
				for tag, finished := range atBroker {
					if finished {
						left++
					}
					if finished && all {
						t.Fatalf("seed %d: tag %d is finished but was not acknowledged", seed, tag)
					}
				}
				if u.Finished() != left {
					t.Fatalf("seed %d: %d are said to be finished, want %d", seed, u.Finished(), left)
				}
			}
		}
	}
}

func equal[T any](t *testing.T, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
