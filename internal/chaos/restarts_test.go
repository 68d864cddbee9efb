//go:build chaos

package chaos

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestRestarts ends a worker again and again that has taken a hundred messages and finishes
// none of them. The broker counts each time that they were handed out, and gives them up
// after twenty.
func TestRestarts(t *testing.T) {
	const restarts, messages = 40, 300
	warren := build(t, folder(t, 0), "warren", ".", "")
	for name, end := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			begun := make(chan struct{}, messages)
			receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // or its end is not noticed
				select {
				case begun <- struct{}{}:
				default:
				}
				<-r.Context().Done() // the worker has gone
			}))
			defer receiver.Close()
			v := rabbittest.NewVhost(t)
			suspects, published := 0, false
			for i := range restarts {
				cmd := exec.CommandContext(t.Context(), warren, "run")
				cmd.Env = []string{
					"PATH=" + os.Getenv("PATH"), "WARREN_AMQP_URL=" + v.URL, "WARREN_ADMIN_ADDR=", "WARREN_QUEUES=work", "WARREN_SHUTDOWN_TIMEOUT=200ms",
					"WARREN_QUEUE_WORK_PROCESSOR=webhook", "WARREN_QUEUE_WORK_URL=" + receiver.URL, "WARREN_QUEUE_WORK_CONCURRENCY=8", "WARREN_QUEUE_WORK_PREFETCH=100",
				}
				var log strings.Builder
				cmd.Stderr = &log
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if !published {
					published = true
					rabbittest.Eventually(t, time.Minute, func() bool { return v.Consumers(t, "work") == 1 }, "the queue is consumed")
					v.PublishN(t, "work", messages, func(i int) amqp.Publishing {
						return amqp.Publishing{MessageId: strconv.Itoa(i), Body: []byte("{}")}
					})
				}
				<-begun
				unacked := 0
				rabbittest.Eventually(t, time.Minute, func() bool {
					unacked = v.Unacked(t, "work")
					return unacked >= 100 || strings.Contains(name, "KILL") && unacked > 0 && i > 4
				}, "it has taken a hundred")
				_ = cmd.Process.Signal(end)
				_ = cmd.Wait()
				rabbittest.Eventually(t, time.Minute, func() bool { return v.Unacked(t, "work") == 0 }, "all have been returned")
				for len(begun) > 0 {
					<-begun
				}
				if left := v.Ready(t, "work"); left != messages {
					t.Errorf("after %d restarts %d of %d messages are left; the last worker:\n%s", i+1, left, messages, log.String())
					break
				}
				suspects += strings.Count(log.String(), "may end the process")
				if dead := v.Ready(t, "work.dead"); dead != 0 {
					t.Errorf("after %d restarts %d messages were dead-lettered", i+1, dead)
					break
				}
			}
			left := v.Ready(t, "work")
			t.Logf("RabbitMQ %s, %s: %d restarts, %d of %d messages left, %d suspects", v.Node.Version(), name, restarts, left, messages, suspects)
			if left != messages || suspects != 0 && end == syscall.SIGTERM { // what was in hand at each kill is suspected, rightly
				t.Errorf("%d of %d messages are left, and %d suspects were made", left, messages, suspects)
			}
		})
	}
}
