// Package broker is one connection's worth of AMQP: how to connect to a node, what to
// declare there, how to publish so that it is known what became of a message, and what
// the broker's errors mean. It knows nothing of deliveries that are being worked.
//
// A [Conn] is used by any number of goroutines. Each publish has a goroutine of the
// Conn's own, so that whoever gives up can leave at once while the write, or the
// confirm that comes late, is waited for elsewhere; [Conn.Close] waits for all of them.
package broker
