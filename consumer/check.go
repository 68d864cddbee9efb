package consumer

import "context"

// A Finding is one line of what Check found.
type Finding struct {
	OK   bool
	What string // node mq1:5672, queue emails, ...
	Text string // what was found, and the remedy if it is a fault
}

// Check connects to every node of cfg and looks, without changing anything or
// taking a message, whether what Run needs is there and permitted. It reports
// each finding as it is made and blocks until all are.
func Check(ctx context.Context, cfg Config, report func(Finding)) {}
