package command_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/command"
)

// BenchmarkSpawn compares deliveries with the least that as many processes can
// cost, several at a time in both cases:
//
//	go test -run '^$' -bench 'Spawn|Pool' ./processors/command
func BenchmarkSpawn(b *testing.B) {
	p := newProcessor(b, command.Config{Command: "/bin/true"})
	sideBySide(b, "delivery", deliver(b, p))
	sideBySide(b, "plain", func() error { return exec.Command("/bin/true").Run() })
}

// BenchmarkPool compares a handler in Python that does nothing in both modes.
func BenchmarkPool(b *testing.B) {
	spawned := pythonScript(b, "import json, sys", "json.load(sys.stdin)")
	sideBySide(b, "spawn", deliver(b, newProcessor(b, command.Config{Command: spawned})))
	sideBySide(b, "pool", deliver(b, newPool(b, nil, command.Config{Command: pythonScript(b, answering("{'verdict': 'ok'}")...)})))
}

func deliver(b *testing.B, p consumer.Processor) func() error {
	body := fmt.Appendf(nil, `{"text": "%s"}`, strings.Repeat("x", 1024))
	d := consumer.Delivery{Queue: "commands", MessageID: "1", Body: body}
	return func() error {
		_, err := consumertest.Run(b.Context(), p, d)
		return err
	}
}

func sideBySide(b *testing.B, name string, f func() error) {
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
