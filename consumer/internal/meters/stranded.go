package meters

import (
	"log/slog"
	"sync/atomic"
)

// Stranded is how many messages are known to wait for a queue that is missing. The broker
// keeps them until it is there again, but shows those that have fallen due to no client:
// so what was seen once is not taken off, and it may be more. The loop of the queue alone
// writes it.
type Stranded struct {
	known atomic.Int64
	last  int // seen waiting with the last look
}

// Count is how many there are; zero while the queue is there. Any goroutine may call it.
func (s *Stranded) Count() int64 { return s.known.Load() }

// See takes how many messages wait for the missing queue and have not fallen due; a
// negative number if it is not missing.
func (s *Stranded) See(log *slog.Logger, waiting int) {
	if waiting < 0 {
		return
	}
	grown := waiting - s.last
	s.last = waiting
	if grown <= 0 {
		return
	}
	log.Error("the queue is missing, and messages wait for it; the broker keeps them, and they come home within three minutes once it is declared",
		"messages", s.known.Add(int64(grown)))
}

// End says that the queue is there.
func (s *Stranded) End(log *slog.Logger) {
	if n := s.known.Swap(0); n > 0 {
		log.Info("the queue is there again, what waits for it comes home within three minutes", "messages", n)
	}
	s.last = 0
}
