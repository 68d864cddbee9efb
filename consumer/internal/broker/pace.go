package broker

import (
	"context"
	"time"

	"github.com/sethvargo/go-retry"
)

// youngFor is how long a session must have lived for the next one to be opened at once:
// a fault that comes with connecting must not have the broker connected to without end.
const youngFor = 10 * time.Second

// A Pacer paces sessions that die young. The zero value has seen none.
type Pacer struct {
	young retry.Backoff // nil unless the last session died young
}

// Pace waits before the next session if the last one, which has lived so long, and the
// one before it have died young.
func (p *Pacer) Pace(ctx context.Context, lived time.Duration) {
	if lived > youngFor {
		p.young = nil
		return
	}
	if p.young == nil {
		p.young = Backoff()
		return // once, it may be the node that ended
	}
	d, _ := p.young.Next()
	Sleep(ctx, d)
}
