package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/freeport"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// outageOf is how long outages take: half a minute, or WARREN_TEST_OUTAGE.
func outageOf(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("WARREN_TEST_OUTAGE")
	if text == "" {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestOutage has a webhook's receiver and a mail server be down, with 5,000 messages for
// each that may be tried three times, and a command beside them that needs neither.
func TestOutage(t *testing.T) {
	t.Parallel()
	const n = 5000
	outage := outageOf(t)
	receiver, mails := listen(t), listen(t)
	_ = receiver.Close() // until they are listened on again, connections are refused
	_ = mails.Close()
	v := rabbittest.NewVhost(t)
	path, socket := notifySocket(t)
	braked := make(chan time.Time, 1) // when systemd was told
	go func() {
		for buffer := make([]byte, 4096); ; { // on and on, or the daemon could not write any more
			n, err := socket.Read(buffer)
			if err != nil {
				return
			}
			if s := string(buffer[:n]); strings.Contains(s, "hooks is braked for ") && strings.Contains(s, "emails is braked for ") {
				select {
				case braked <- time.Now():
				default:
				}
			}
		}
	}()

	d := start(t, commandQueue(v, "orders", `exit 0`,
		"NOTIFY_SOCKET="+path, "WARREN_ADMIN_ADDR=127.0.0.1:0", "WARREN_QUEUES=orders,hooks,emails",
		"WARREN_QUEUE_HOOKS_PROCESSOR=webhook", "WARREN_QUEUE_HOOKS_MAX_ATTEMPTS=3", "WARREN_QUEUE_HOOKS_URL=http://"+receiver.Addr().String(),
		"WARREN_QUEUE_EMAILS_PROCESSOR=email", "WARREN_QUEUE_EMAILS_MAX_ATTEMPTS=3",
		"WARREN_QUEUE_EMAILS_SMTP_URL=smtp://"+mails.Addr().String()+"?tls=none", "WARREN_QUEUE_EMAILS_FROM=shop@example.com")...)
	began := time.Now()
	v.PublishN(t, "hooks", n, withID(`{"order": ID}`))
	v.PublishN(t, "emails", n, withID(`{"to": "c-ID@example.net", "subject": "Order ID", "text": "Thank you."}`))
	published := time.Since(began)
	select {
	case told := <-braked:
		t.Logf("published in %v; systemd was told of both %v after the first", published.Round(time.Millisecond), told.Sub(began).Round(time.Millisecond))
	case <-time.After(10 * time.Minute):
		t.Fatal("systemd was not told")
	}
	if status, body := fetch(t, d.adminURL(t)+"/readyz"); status != http.StatusOK || strings.Count(body, `"ready":true,"braked":"for `) != 2 {
		t.Errorf("/readyz answers %d, %s", status, body)
	}
	v.PublishN(t, "orders", 100, withID("ID"))
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "orders")+v.Unacked(t, "orders") == 0 }, "the neighbour is worked")

	<-time.After(time.Until(began.Add(outage)))
	log := d.log.String()
	most := 10 + 2*8 + int(time.Since(began)/(4*time.Second)) + 1
	for _, queue := range []string{"hooks", "emails"} {
		attempts := 0
		for line := range strings.Lines(log) {
			if strings.Contains(line, `msg="attempt failed`) && strings.Contains(line, "queue="+queue) {
				attempts++
			}
		}
		t.Logf("%s: %d attempts in %v of outage (%d allowed)", queue, attempts, time.Since(began).Round(time.Second), most)
		if attempts > most || attempts == 0 {
			t.Errorf("%s: %d attempts were made, want %d at most", queue, attempts, most)
		}
	}

	// Both come back.
	relisten := func(addr string) net.Listener {
		l, err := freeport.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	var working, busiest, got atomic.Int64
	hooks := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		now := working.Add(1)
		defer working.Add(-1)
		for most := busiest.Load(); now > most && !busiest.CompareAndSwap(most, now); most = busiest.Load() {
		}
		<-time.After(5 * time.Millisecond)
		got.Add(1)
	}))
	_ = hooks.Listener.Close()
	hooks.Listener = relisten(receiver.Addr().String())
	back := time.Now()
	hooks.Start()
	t.Cleanup(hooks.Close)
	server := serveMail(t, relisten(mails.Addr().String()))
	rabbittest.Eventually(t, 20*time.Second, func() bool { return busiest.Load() == 8 && server.connections() >= 8 }, "all slots work")
	t.Logf("both at full speed %v after the return", time.Since(back).Round(time.Millisecond))
	rabbittest.Eventually(t, 2*time.Minute, func() bool { return got.Load() >= n && len(server.subjects()) >= n }, "all are done")
	eachOnce(t, server.subjects(), n)
	for _, queue := range []string{"hooks.dead", "emails.dead", "orders.dead"} {
		if dead := v.Ready(t, queue); dead != 0 {
			t.Errorf("%s has %d messages, want none", queue, dead)
		}
	}
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
}
