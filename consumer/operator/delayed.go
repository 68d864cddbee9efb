package operator

import (
	"context"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

type (
	// A WaitingMessage is one in a wait queue.
	WaitingMessage = broker.WaitingMessage
	// A WaitingList is what was found of them.
	WaitingList = broker.WaitingList
)

// Delayed returns what waits in the broker for the queues of these names: of each wait
// queue it looks at the first ones, at most so many. They stay where they are, in their
// order, and come home in time; those that fall due while they are looked at do so a
// moment later. It blocks until it is done or ctx ends. program is what its connection is
// called.
func Delayed(ctx context.Context, program string, nodes, queues []string, most int) (WaitingList, error) {
	conn, err := broker.Dialer{Program: program}.DialAny(ctx, nodes, broker.Options{Purpose: "delayed"})
	if err != nil {
		return WaitingList{}, err
	}
	defer conn.Close()
	return conn.Waiting(ctx, queues, most)
}
