// Warren is a worker daemon for RabbitMQ. It takes deliveries from queues, has a
// processor do the work of each, and acknowledges only after success; what fails is
// retried with exponential backoff, and then kept in a dead-letter queue.
//
// It is configured by environment variables, which config.example.env lists.
package main

import (
	"github.com/warrenmq/warren/daemon"
	"github.com/warrenmq/warren/processors"
)

func main() { daemon.Main(processors.Standard()) }
