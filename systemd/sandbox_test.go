//go:build systemd

package systemd

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestProcessorsWorkInTheSandbox has each of the built-in processors do its work in the unit as
// it is shipped, and programs that need more with the drop-in for those.
func TestProcessorsWorkInTheSandbox(t *testing.T) {
	t.Parallel()
	s := boot(t, "")
	s.startBroker(t)
	mails := serveMail(t, s)
	hooks := serveHooks(t, s)
	s.Write(t, "/etc/warren/statements/make-orders.sql", 0o644, "CREATE TABLE orders AS SELECT 1 AS id UNION SELECT 2;\n")
	s.Write(t, "/etc/warren/reports/sales.sql", 0o644, "SELECT id FROM orders ORDER BY id;\n")
	s.Write(t, "/usr/local/bin/count", 0o755, "#!/usr/bin/python3\nimport sys, json\nprint(len(json.load(sys.stdin)))\nopen('/var/lib/warren/python', 'w').write('done')\n")
	s.configure(t, brokerAt,
		"WARREN_QUEUES=logs,shells,pythons,mails,files,hooks,chores,reports",
		"WARREN_DATABASE_URL=sqlite:/var/lib/warren/warren.db",
		"WARREN_MIGRATE=true",
		"WARREN_QUEUE_HOOKS_PROCESSOR=webhook",
		"WARREN_QUEUE_HOOKS_URL=http://127.0.0.1:8080/",
		"WARREN_QUEUE_CHORES_PROCESSOR=sql",
		"WARREN_QUEUE_CHORES_STATEMENTS=/etc/warren/statements",
		"WARREN_QUEUE_REPORTS_PROCESSOR=report",
		"WARREN_QUEUE_REPORTS_REPORTS=/etc/warren/reports",
		"WARREN_QUEUE_REPORTS_OUTPUT=/var/lib/warren/reports",
		"WARREN_QUEUE_LOGS_PROCESSOR=log",
		"WARREN_QUEUE_SHELLS_PROCESSOR=command",
		`WARREN_QUEUE_SHELLS_COMMAND="/bin/sh -c 'cat > /var/lib/warren/shell; ls /home /root 2>&1; echo $TMPDIR; test ! -w /etc && test ! -w /usr; r=$?; cat /proc/$PPID/environ > /var/lib/warren/seen; exit $r'"`,
		"WARREN_QUEUE_PYTHONS_PROCESSOR=command",
		"WARREN_QUEUE_PYTHONS_COMMAND=/usr/local/bin/count",
		"WARREN_QUEUE_MAILS_PROCESSOR=email",
		"WARREN_QUEUE_MAILS_SMTP_URL=smtp://127.0.0.1:2525?tls=none",
		"WARREN_QUEUE_MAILS_FROM=shop@example.com",
		"WARREN_QUEUE_FILES_PROCESSOR=email",
		"WARREN_QUEUE_FILES_MAILDIR=/var/lib/warren/Maildir",
		"WARREN_QUEUE_FILES_FROM=shop@example.com",
	)
	s.Run(t, "systemctl", "start", "warren")
	const mail = `{"to": "ada@example.net", "subject": "Hello", "text": "Hello Ada"}`
	all := func(t *testing.T, done string) {
		t.Helper()
		for queue, body := range map[string]string{
			"logs": "{}", "shells": "hello", "pythons": "[1, 2]", "mails": mail, "files": mail, "hooks": "{}", "chores": `{"statement": "make-orders"}`,
		} {
			s.Run(t, "warren", "publish", queue, body)
		}
		s.await(t, "8 queues, 0 in flight, 7 done")
		s.Run(t, "warren", "publish", "reports", `{"report": "sales", "format": "csv"}`)
		s.await(t, "8 queues, 0 in flight, "+done+" done")
		if dead := s.Run(t, "rabbitmqctl", "-q", "--no-table-headers", "list_queues", "name", "messages"); strings.Contains(dead, "dead\t1") {
			t.Errorf("queues: got\n%s\nwant no dead letter", dead)
		}
	}
	all(t, "8")
	if s.Read(t, "/var/lib/warren/shell") != "hello" || s.Read(t, "/var/lib/warren/python") != "done" {
		t.Error("the commands have not written what they should")
	}
	if seen := s.Read(t, "/var/lib/warren/seen"); seen != "" {
		t.Errorf("a command has read the daemon's environment: %d bytes", len(seen))
	}
	if mails.count() != 1 {
		t.Errorf("mails over SMTP: got %d, want 1", mails.count())
	}
	if n := hooks.Load(); n != 1 {
		t.Errorf("webhooks: got %d, want 1", n)
	}
	if got := s.Run(t, "sh", "-c", "cat /var/lib/warren/reports/sales-*.csv"); got != "id\r\n1\r\n2" {
		t.Errorf("report: got %q, want the two orders", got)
	}
	if got := s.Run(t, "sh", "-c", "ls /var/lib/warren/Maildir/new | wc -l"); got != "1" {
		t.Errorf("mails in the Maildir: got %s, want 1", got)
	}

	// Memory that can be written and executed is what an interpreter that compiles needs.
	s.Write(t, "/usr/local/bin/count", 0o755, `#!/usr/bin/python3
import mmap
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
open('/proc/meminfo').read()
open('/var/lib/warren/python', 'w').write('compiled')
`)
	s.Run(t, "warren", "publish", "pythons", "[]")
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		failed := s.journal(t, "-u", "warren", "-g", "attempt failed")
		return strings.Contains(failed, "queue=pythons")
	}, "what compiles is refused without the drop-in")
	s.Run(t, "mkdir", "-p", "/etc/systemd/system/warren.service.d")
	s.Run(t, "cp", "/usr/share/doc/warren/examples/commands.conf", "/etc/systemd/system/warren.service.d/")
	s.Run(t, "systemctl", "daemon-reload")
	s.Run(t, "systemctl", "restart", "warren")
	rabbittest.Eventually(t, 30*time.Second, func() bool { return s.Read(t, "/var/lib/warren/python") == "compiled" }, "it is done with the drop-in")
	s.wantExposure(t, 1.4)
}

// serveHooks serves HTTP on port 8080 of the machine, until the test ends, and counts the
// requests.
func serveHooks(t *testing.T, s *server) *atomic.Int64 {
	t.Helper()
	var requests atomic.Int64
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) })}
	listener := s.Listen(t, "127.0.0.1:8080")
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return &requests
}

// A mailServer counts the mails that it takes.
type mailServer struct {
	mu    sync.Mutex
	mails int
}

func (m *mailServer) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mails
}

// serveMail serves SMTP on port 2525 of the machine, until the test ends.
func serveMail(t *testing.T, s *server) *mailServer {
	t.Helper()
	m := new(mailServer)
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return mailSession{m}, nil }))
	listener := s.Listen(t, "127.0.0.1:2525")
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return m
}

type mailSession struct{ *mailServer }

func (mailSession) Reset()                               {}
func (mailSession) Logout() error                        { return nil }
func (mailSession) Mail(string, *smtp.MailOptions) error { return nil }
func (mailSession) Rcpt(string, *smtp.RcptOptions) error { return nil }

func (s mailSession) Data(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails++
	return nil
}
