package cli

import (
	"errors"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/daemon/internal/settings"
)

// checkAdmin looks whether the address of the admin server can be had, or a daemon has it.
func checkAdmin(cfg *settings.Config, out *findings) {
	if cfg.Admin.Addr == "" {
		return
	}
	what := "admin address " + cfg.Admin.Addr
	listener, err := net.Listen("tcp", cfg.Admin.Addr)
	switch {
	case err == nil:
		_ = listener.Close() // nothing has been sent
		out.add(consumer.Finding{Severity: consumer.SeverityOK, What: what, Text: "is free"})
	case errors.Is(err, syscall.EADDRINUSE) && servesHealth(cfg.Admin.Addr):
		f := consumer.Finding{Severity: consumer.SeverityOK, What: what, Text: "a daemon has it"}
		if out.asked && !out.here {
			f = consumer.Finding{
				Severity: consumer.SeverityNote, What: what, Text: "a daemon has it, but none that works these queues has answered from this machine",
				Why: "if it is one of another configuration, this one does not start", Cure: "give each daemon of a machine a WARREN_ADMIN_ADDR of its own",
			}
		}
		out.add(f)
	case errors.Is(err, syscall.EADDRINUSE):
		out.add(consumer.Finding{
			Severity: consumer.SeverityFault, What: what, Text: "another program has it",
			Why: "the daemon does not start without it", Cure: "ss -ltnp shows which; or set WARREN_ADMIN_ADDR to another one, or to nothing",
		})
	default:
		if inner := new(os.SyscallError); errors.As(err, &inner) {
			err = inner
		}
		out.add(consumer.Finding{
			Severity: consumer.SeverityFault, What: what, Text: err.Error(),
			Why: "the daemon does not start without it", Cure: "set WARREN_ADMIN_ADDR to an address of this machine, or to nothing",
		})
	}
}

// servesHealth tells whether something that may be a daemon listens there: whatever it says
// of its health, or of who asks.
func servesHealth(addr string) bool {
	client := http.Client{Timeout: time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Get("http://" + addr + "/healthz")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode != http.StatusNotFound
}
