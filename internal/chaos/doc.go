// Package chaos is a machine that makes faults. It runs four workers, the real program, on
// a private RabbitMQ node and a private PostgreSQL server; publishes to all their
// processors, with delays, failures, schedules and an outbox; and meanwhile kills, stops
// and pauses workers and the node, and spoils connections, queues and a disk, at random
// from a seed. All who see what happens write it into ledgers, and package checker, a
// program of its own, decides about these.
//
//	make chaos DURATION=10m SEED=1
//
// It is a test with the build tag chaos.
package chaos
