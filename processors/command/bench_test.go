package command_test

import (
	"os/exec"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/command"
)

// BenchmarkSpawn compares deliveries with the least that as many processes can
// cost, several at a time in both cases:
//
//	go test -run '^$' -bench Spawn ./processors/command
func BenchmarkSpawn(b *testing.B) {
	p := newProcessor(b, command.Config{Command: "/bin/true"})
	d := consumer.Delivery{Queue: "commands", MessageID: "1", Body: make([]byte, 1024)}
	spawn := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := f(); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
	spawn("delivery", func() error {
		_, err := consumertest.Run(b.Context(), p, d)
		return err
	})
	spawn("plain", func() error { return exec.Command("/bin/true").Run() })
}
