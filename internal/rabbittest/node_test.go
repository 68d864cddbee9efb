package rabbittest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestMessagesSurviveTheEndOfTheNode(t *testing.T) {
	for name, end := range map[string]func(*Node) error{
		"killed":  func(n *Node) error { n.Kill(); return nil },
		"stopped": (*Node).Stop,
	} {
		t.Run(name, func(t *testing.T) {
			v := NewVhost(t)
			v.Declare(t, "kept", nil)
			v.PublishN(t, "kept", 1000, numbered)
			closed := dial(t, v.URL).NotifyClose(make(chan *amqp.Error, 1))

			if err := end(v.Node); err != nil {
				t.Fatal(err)
			}
			await(t, closed, "close of a connection to the ended node")
			if left := processesAtHome(t, v.Node.dir); len(left) > 0 {
				t.Errorf("processes of the ended node: got %q, want none", left)
			}
			if _, err := amqp.Dial(v.URL); err == nil {
				t.Error("connect to the ended node: got a connection, want an error")
			}
			started := time.Now()
			if err := v.Node.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("the node was up again after %v", time.Since(started).Round(time.Millisecond))
			checkNumbered(t, v.Drain(t, "kept"), 1000)
		})
	}
}

func TestTheNodeIsMendedAfterATest(t *testing.T) {
	faults := map[string]func(v *Vhost) error{
		"killed":  func(v *Vhost) error { v.Node.Kill(); return nil },
		"paused":  func(v *Vhost) error { v.Node.Pause(); return nil },
		"alarmed": func(v *Vhost) error { return v.Node.MemoryAlarm(true) },
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			if err := fault(NewVhost(t)); err != nil {
				t.Fatal(err)
			}
		})
		v := NewVhost(t)
		v.Declare(t, "next", nil)
		v.Publish(t, "next", numbered(0))
		checkNumbered(t, v.Drain(t, "next"), 1)
	}
}

func TestAPausedNodeAnswersOnceResumed(t *testing.T) {
	v := NewVhost(t)
	v.Declare(t, "q", nil)
	ch := v.Channel(t)
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	v.Node.Pause()
	confirmation, err := ch.PublishWithDeferredConfirm("", "q", true, false, numbered(0))
	if err != nil {
		t.Fatalf("publish to a paused node: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := confirmation.WaitContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("confirm from a paused node: got error %v, want none in time", err)
	}
	v.Node.Resume()
	await(t, confirmation.Done(), "confirm from the resumed node")
	if !confirmation.Acked() {
		t.Error("confirm from the resumed node: got a refusal, want an acceptance")
	}
}

func TestTheMemoryAlarmBlocksWhoPublishes(t *testing.T) {
	v := NewVhost(t)
	v.Declare(t, "q", nil)
	conn := dial(t, v.URL)
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 2))
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	if err := v.Node.MemoryAlarm(true); err != nil {
		t.Fatal(err)
	}
	confirmation, err := ch.PublishWithDeferredConfirm("", "q", true, false, numbered(0))
	if err != nil {
		t.Fatal(err)
	}
	if b := await(t, blocked, "connection.blocked"); !b.Active || !strings.Contains(b.Reason, "memory") {
		t.Errorf("connection.blocked: got %+v, want an active one because of memory", b)
	}
	if confirmation.Acked() {
		t.Error("a message published under the alarm was accepted, want it held up")
	}
	if err := v.Node.MemoryAlarm(false); err != nil {
		t.Fatal(err)
	}
	if b := await(t, blocked, "connection.unblocked"); b.Active {
		t.Errorf("connection.unblocked: got %+v, want an inactive one", b)
	}
	await(t, confirmation.Done(), "confirm after the alarm")
}

func TestCloseConnectionsClosesThoseOfOneVhost(t *testing.T) {
	v, other := NewVhost(t), NewVhost(t)
	closed := dial(t, v.URL).NotifyClose(make(chan *amqp.Error, 1))
	spared := dial(t, other.URL)
	if got := v.CloseConnections(t, "by the test"); got != 1 {
		t.Errorf("closed connections: got %d, want 1", got)
	}
	reason := await(t, closed, "close of the connection")
	if reason == nil || reason.Code != amqp.ConnectionForced || !strings.Contains(reason.Reason, "by the test") {
		t.Errorf("close of the connection: got %v, want code %d and the reason given", reason, amqp.ConnectionForced)
	}
	if _, err := spared.Channel(); err != nil {
		t.Errorf("the connection to another vhost: got error %v, want it open", err)
	}
}

func TestTheCertificateVerifiesWithTheNodesAuthorityOnly(t *testing.T) {
	v := NewVhost(t)
	if _, err := amqp.Dial(v.Node.TLSURL(v.Name)); !isUnverified(err) {
		t.Errorf("connect with the system's authorities: got error %v, want a certificate that does not verify", err)
	}
	pem, err := os.ReadFile(v.Node.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("file of the authority: got %q, want a certificate in PEM", pem)
	}
	conn, err := amqp.DialTLS(v.Node.TLSURL(v.Name), &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatalf("connect with the node's authority: %v", err)
	}
	_ = conn.Close()
}

func isUnverified(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

func TestCtlAndEvalReachTheNode(t *testing.T) {
	v := NewVhost(t)
	out, err := v.Node.Ctl("list_vhosts", "--quiet")
	if err != nil || !strings.Contains(out, v.Name) {
		t.Errorf("rabbitmqctl list_vhosts: got %q and error %v, want %s among them", out, err, v.Name)
	}
	got, err := v.Node.Eval(`X = 20, {X + 1, "text"}`)
	if want := `{21, "text"}`; err != nil || got != want {
		t.Errorf("eval: got %s and error %v, want %s", got, err, want)
	}
	for _, broken := range []string{"erlang:error(oops)", "1 +"} {
		if got, err := v.Node.Eval(broken); err == nil {
			t.Errorf("eval %s: got %s, want an error", broken, got)
		}
	}
}
