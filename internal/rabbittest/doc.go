// Package rabbittest is the bench of the tests against a real RabbitMQ.
//
// A test package starts its own private node with the first test that asks for a
// vhost: on free ports of the loopback interface, in a temporary folder, beside
// whatever else runs on the machine. Neither the node nor its folder outlives the
// test process, however that ends.
//
//	func TestMain(m *testing.M) { rabbittest.Main(m) }
//
//	func TestDrain(t *testing.T) {
//		v := rabbittest.NewVhost(t) // empty, and gone after the test
//		v.Declare(t, "emails", nil) // a durable quorum queue
//		v.PublishN(t, "emails", 20_000, func(i int) amqp.Publishing {
//			return amqp.Publishing{MessageId: strconv.Itoa(i), Body: body}
//		})
//		consume(v.URL)
//		v.CloseConnections(t, "bench")
//		rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "emails") == 0 },
//			"queue emails is empty")
//	}
//
// Faults of the node itself ([Node.Kill], [Node.Stop], [Node.Restart], [Node.Pause],
// [Node.MemoryAlarm]) hit every test that runs at the same time: a test that uses
// them must not be parallel. What a test leaves broken is mended when it ends.
// Faults of the network belong to a [Proxy], and hit only who connects through it.
//
// [StartCluster] makes a cluster, each node on a host of its own, that a test can cut off
// from the others or have vanish; the TestMain of its package is [ClusterMain], as root.
//
// The node is Debian's rabbitmq-server; the variable RABBITMQ_SERVER may name the
// rabbitmq-server command of another release, beside which its rabbitmqctl lies.
// The package is for Linux.
package rabbittest
