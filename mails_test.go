package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// What a message asks of the processor email beyond all measure costs that message, with
// words, and the next one nothing.
func TestHostileMails(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"silent.html": `{{define "subject"}}x{{end}}<p>{{range .n}}{{end}}</p>`,
		"loud.txt":    `{{define "subject"}}x{{end}}{{range .n}}` + strings.Repeat("x", 200) + `{{end}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	maildir := t.TempDir()
	d := start(t,
		"WARREN_AMQP_URL="+v.URL,
		"WARREN_QUEUES=emails",
		"WARREN_QUEUE_EMAILS_PROCESSOR=email",
		"WARREN_QUEUE_EMAILS_MAILDIR="+maildir,
		"WARREN_QUEUE_EMAILS_FROM=shop@example.com",
		"WARREN_QUEUE_EMAILS_TEMPLATES="+dir,
		"WARREN_QUEUE_EMAILS_CONCURRENCY=1", // so that each holds up the next
	)
	hostile := map[string]struct{ body, reason, text string }{
		"silent":  {`{"to": "a@b.c", "template": "silent", "data": {"n": 9000000000000000000}}`, "permanent", "more than 100000 times"},
		"loud":    {`{"to": "a@b.c", "template": "loud", "data": {"n": 9000000000000000000}}`, "permanent", "more than 8388608 bytes"},
		"latin-1": {"{\"to\": \"a@b.c\", \"subject\": \"Gr\xfc\xdfe\", \"text\": \"x\"}", "undecodable", "not UTF-8"},
		"gzip":    {"\x1f\x8b\x08\x00", "undecodable", "compressed with gzip"},
		"mark":    {"\ufeff{}", "undecodable", "byte order mark"},
		"sender":  {`{"to": "a@b.c", "from": "boss@example.com", "subject": "x", "text": "x"}`, "permanent", "FROM_ALLOWED"},
	}
	for id, h := range hostile {
		v.Publish(t, "emails", amqp091.Publishing{MessageId: id, Body: []byte(h.body)})
	}
	v.Publish(t, "emails", amqp091.Publishing{MessageId: "innocent", Body: []byte(`{"to": "a@b.c", "subject": "innocent", "text": "x"}`)})
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "emails.dead") == len(hostile) && len(filesIn(t, maildir)) == 1 }, "the innocent mail is there, and nothing else")
	for _, dead := range v.Drain(t, "emails.dead") {
		h := hostile[dead.MessageId]
		text, _ := dead.Headers["x-warren-error"].(string)
		if dead.Headers["x-warren-reason"] != h.reason || !strings.Contains(text, h.text) || string(dead.Body) != h.body {
			t.Errorf("%s: got %v, %q and %q, want %s with %q and all its bytes", dead.MessageId, dead.Headers["x-warren-reason"], text, dead.Body, h.reason, h.text)
		}
		if attempts := dead.Headers["x-warren-attempt"]; attempts != int32(1) && attempts != int64(1) {
			t.Errorf("%s: got %v attempts, want 1", dead.MessageId, attempts)
		}
	}
	if peak := peakResident(t, d.Process.Pid); peak > 300<<20 {
		t.Errorf("the daemon took %d bytes of memory", peak)
	}
}

func filesIn(t *testing.T, maildir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(maildir, "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A gate closes each connection at once until it is open.
type gate struct {
	net.Listener
	open   atomic.Bool
	closed atomic.Int64 // connections
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil || g.open.Load() {
			return c, err
		}
		g.closed.Add(1)
		_ = c.Close()
	}
}

// While the mail server is away, mails wait for it: none uses up its only attempt.
func TestMailServerThatIsAway(t *testing.T) {
	t.Parallel()
	const n = 20
	v := rabbittest.NewVhost(t)
	away := &gate{Listener: listen(t)}
	server := serveMail(t, away)
	start(t, "WARREN_AMQP_URL="+v.URL, "WARREN_QUEUES=emails", "WARREN_QUEUE_EMAILS_PROCESSOR=email", "WARREN_QUEUE_EMAILS_MAX_ATTEMPTS=1",
		"WARREN_QUEUE_EMAILS_SMTP_URL=smtp://"+server.addr+"?tls=none", "WARREN_QUEUE_EMAILS_FROM=shop@example.com")
	v.PublishN(t, "emails", n, withID(`{"to": "c-ID@example.net", "subject": "Order ID", "text": "Thank you."}`))
	rabbittest.Eventually(t, time.Minute, func() bool { return away.closed.Load() >= 5 }, "mails have been tried")
	away.open.Store(true)
	rabbittest.Eventually(t, 2*time.Minute, func() bool { return len(server.subjects()) >= n }, "all mails have been sent")
	eachOnce(t, server.subjects(), n)
	if dead := v.Ready(t, "emails.dead"); dead != 0 {
		t.Errorf("%d mails are dead, want none", dead)
	}
}
