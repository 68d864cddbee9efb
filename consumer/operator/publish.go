package operator

import (
	"context"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// Publish connects to the first of nodes that can be used, publishes m as a
// persistent message, and returns nil once the broker has confirmed that at least
// one queue has it. It blocks until then, until the broker has refused it, or
// until ctx ends. The connection is called as m's AppID says.
func Publish(ctx context.Context, nodes []string, m broker.Message) error {
	o, err := m.Outgoing(broker.ForProgram)
	if err != nil {
		return err
	}
	conn, err := broker.Dialer{Program: m.AppID}.DialAny(ctx, nodes, broker.Options{Purpose: "publish"})
	if err != nil {
		return err
	}
	defer conn.Close()
	return broker.ExplainPublish(m.Exchange, m.RoutingKey, conn.Publish(ctx, o))
}
