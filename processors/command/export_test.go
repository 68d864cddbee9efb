package command

import (
	"time"

	"github.com/warrenmq/warren/consumer"
)

// SetKillAfter gives the programs of p so long between SIGTERM and SIGKILL. Half a second
// can pass on a busy machine before a program has run at all.
func SetKillAfter(p consumer.Processor, d time.Duration) {
	switch p := p.(type) {
	case *processor:
		p.killAfter = d
	case *pool:
		p.killAfter = d
	}
}
