package consumer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A rotated is a user of a node with TLS whose password and certificate change, as they
// are in the files of a daemon.
type rotated struct {
	vhost *rabbittest.Vhost
	user  string
	dir   string // of certificate and key
	url   atomic.Pointer[string]
	n     int
}

func newRotated(t *testing.T) *rotated {
	t.Helper()
	v := rabbittest.NewVhost(t)
	r := &rotated{vhost: v, user: strings.ToLower(v.Name), dir: t.TempDir()}
	v.AddUser(t, r.user, "none", ".*", ".*", ".*")
	r.rotate(t)
	return r
}

// rotate changes the password and the certificate, on the broker and in the files.
func (r *rotated) rotate(t *testing.T) {
	t.Helper()
	r.n++
	r.vhost.Node.ChangePassword(t, r.user, r.password())
	r.vhost.Node.ClientCertificate(t, r.dir, r.name())
	r.write(r.password())
}

func (r *rotated) name() string     { return fmt.Sprintf("client-%d", r.n) }
func (r *rotated) password() string { return fmt.Sprintf("pw-%d", r.n) }

// write has the URL have the password.
// A busy machine that stands still for a while loses no connection.
func (r *rotated) write(password string) {
	u := fmt.Sprintf("amqps://%s:%s@%s/%s?cacertfile=%s&certfile=%s&keyfile=%s&heartbeat=60", r.user, password, r.vhost.Node.TLSAddr(), r.vhost.Name,
		r.vhost.Node.CAFile(), filepath.Join(r.dir, "cert.pem"), filepath.Join(r.dir, "key.pem"))
	r.url.Store(&u)
}

func (r *rotated) read() ([]string, error) { return []string{*r.url.Load()}, nil }

func (r *rotated) config(queues ...Queue) Config {
	nodes, _ := r.read()
	return Config{Nodes: nodes, ReadNodes: r.read, NodesFrom: "file /etc/warren/amqp_url", Queues: queues, Worker: "vm1 1.0"}
}

// wantPeers waits until all connections of the vhost are made with the certificate there
// is now.
func (r *rotated) wantPeers(t *testing.T) {
	t.Helper()
	rabbittest.Eventually(t, 20*time.Second, func() bool {
		peers := slices.DeleteFunc(r.vhost.Peers(t), func(name string) bool { return name == r.name() })
		return len(peers) == 0
	}, "all connections have the new certificate")
}

// quick is a queue whose messages are written down, after a moment.
func quick(done *ledger) Queue {
	return Queue{Name: "orders", Concurrency: 4, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		<-time.After(2 * time.Millisecond)
		done.write(d)
		return nil
	})}
}

// underLoad publishes until f has returned, and waits until all is done. It wants each
// message done once.
func underLoad(t *testing.T, v *rabbittest.Vhost, done *ledger, f func()) {
	t.Helper()
	ch := v.Channel(t)
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	ended, published := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { published <- n }()
		for {
			if done, _ := done.counts(); n > done+200 {
				<-time.After(time.Millisecond)
				continue
			}
			var last *amqp.DeferredConfirmation
			for range 50 {
				var err error
				if last, err = ch.PublishWithDeferredConfirm("", "orders", true, false, numbered(n)); err != nil {
					t.Error(err)
					return
				}
				n++
			}
			last.Wait()
			select {
			case <-ended:
				return
			default:
			}
		}
	}()
	f()
	close(ended)
	n := <-published
	empty(t, v, "orders", "orders.dead")
	messages, repeats := done.counts()
	if messages != n || repeats != 0 {
		t.Errorf("of %d messages %d are done, with %d repeats; want all, and none", n, messages, repeats)
	}
	t.Logf("%d messages, each done once", n)
}

// enough waits until so many more messages are done.
func (l *ledger) enough(t *testing.T, more int) {
	t.Helper()
	before, _ := l.counts()
	rabbittest.Eventually(t, time.Minute, func() bool { n, _ := l.counts(); return n >= before+more }, strconv.Itoa(more)+" more messages are done")
}

// TestSecretsAreRenewedUnderLoad rotates the password and the client's certificate five
// times, and has one of two workers of the queue connect anew each time: nothing fails, and
// nothing is done twice, by either of them.
func TestSecretsAreRenewedUnderLoad(t *testing.T) {
	t.Parallel()
	r, done := newRotated(t), newLedger()
	first := runConfig(t, r.config(quick(done)), nil)
	second := run(t, []string{r.vhost.URL + "?heartbeat=60"}, quick(done))
	underLoad(t, r.vhost, done, func() {
		for range 5 {
			done.enough(t, 100)
			r.rotate(t)
			if err := first.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		done.enough(t, 100)
	})
	for _, r := range []*running{first, second} {
		for _, unwanted := range []string{"attempt failed", "level=WARN", "level=ERROR"} {
			if contains(r.log, unwanted) {
				t.Errorf("the log has %q", unwanted)
			}
		}
	}
	equal(t, strings.Count(first.log.String(), "connected anew with new secrets"), 5)
}

// TestSecretsOfSeveralNodesAreRenewed has a daemon with two nodes, or two names of one,
// find its own among them by a URL that has another password by now.
func TestSecretsOfSeveralNodesAreRenewed(t *testing.T) {
	t.Parallel()
	r, done := newRotated(t), newLedger()
	cfg := r.config(quick(done))
	both := func() ([]string, error) {
		u := *r.url.Load()
		_, port, _ := strings.Cut(r.vhost.Node.TLSAddr(), ":")
		return []string{u, strings.Replace(u, r.vhost.Node.TLSAddr(), "localhost:"+port, 1)}, nil
	}
	cfg.Nodes, _ = both()
	cfg.ReadNodes = both
	d := runConfig(t, cfg, nil)
	underLoad(t, r.vhost, done, func() {
		for range 2 {
			done.enough(t, 100)
			r.rotate(t)
			if err := d.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			done.enough(t, 100)
		}
	})
	equal(t, strings.Count(d.log.String(), "connected anew with new secrets"), 2)
}

// TestSecretsAreReadAtEachReconnect rotates them without a word to the daemon, and cuts
// its connections.
func TestSecretsAreReadAtEachReconnect(t *testing.T) {
	t.Parallel()
	r, done := newRotated(t), newLedger()
	d := runConfig(t, r.config(quick(done)), nil)
	underLoad(t, r.vhost, done, func() {
		for i := range 3 {
			done.enough(t, 100)
			r.rotate(t)
			done.enough(t, 100)
			// Not the publisher's. One may have ended by itself meanwhile, with the other.
			if _, err := r.vhost.Node.Eval(fmt.Sprintf(`[catch rabbit_networking:close_connection(P, "rotated") || [{pid, P}, {user, <<%q>>}] <- rabbit_networking:connection_info_all([pid, user])]`, r.user)); err != nil {
				t.Fatal(err)
			}
			rabbittest.Eventually(t, 30*time.Second, func() bool { return strings.Count(d.log.String(), "msg=connected ") == i+2 }, "it is connected again")
		}
		done.enough(t, 100)
	})
	if contains(d.log, "attempt failed") {
		t.Error("an attempt has failed")
	}
	r.wantPeers(t)
}

// TestWorkInFlightIsFinishedOverTheConnectionBefore has a long attempt under way when the
// daemon connects anew: the other slot goes on, and the connection before ends with it.
func TestWorkInFlightIsFinishedOverTheConnectionBefore(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		meanwhile func(t *testing.T, r *rotated, d *running)
	}{
		{"which stays", func(*testing.T, *rotated, *running) {}},
		{"which is lost", func(t *testing.T, r *rotated, d *running) {
			r.vhost.CloseConnections(t, "all of them")
			rabbittest.Eventually(t, 20*time.Second, func() bool { return contains(d.log, "held until that has ended") }, "the message is handed out again, and held")
		}},
		{"and the daemon is told to stop", func(_ *testing.T, _ *rotated, d *running) { d.stop() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRotated(t)
			h := newHeld()
			release := releaser(t, h.release)
			cfg := r.config(Queue{Name: "orders", Concurrency: 3, Processor: h})
			cfg.ShutdownTimeout = 10 * time.Minute
			d := runConfig(t, cfg, nil)
			before, _ := r.vhost.Connections(t)
			r.vhost.Publish(t, "orders", amqp.Publishing{MessageId: "long"})
			equal(t, <-h.started, "long")
			r.rotate(t)
			if err := d.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.vhost.Publish(t, "orders", amqp.Publishing{MessageId: "next"})
			equal(t, <-h.started, "next")
			test.meanwhile(t, r, d)
			release()
			empty(t, r.vhost, "orders", "orders.dead")
			select {
			case id := <-h.started:
				t.Errorf("%s has been begun again", id)
			default:
			}
			if test.name == "which stays" {
				rabbittest.Eventually(t, 20*time.Second, func() bool { n, _ := r.vhost.Connections(t); return n <= before }, "the connections before are closed")
				r.wantPeers(t)
			}
			if _, err := d.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBadSecretsTakeNothingDown has something wrong with what is there now: the error says
// what, the work goes on, and so does it after a lost connection.
func TestBadSecretsTakeNothingDown(t *testing.T) {
	t.Parallel()
	cert := func(r *rotated) string { return filepath.Join(r.dir, "cert.pem") }
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, r *rotated)
		want  []string // of the error; %s is the path of the certificate
	}{
		{"another password", func(_ *testing.T, r *rotated) { r.write("wr0ng-secret") }, []string{"refused the user name or password"}},
		{"a certificate of another authority", func(t *testing.T, r *rotated) { rabbittest.StrangersCertificate(t, r.dir, "stranger") },
			[]string{"refused the TLS certificate of this client", "%s, which must be signed by an authority that the node trusts"}},
		{"a key of another certificate", func(t *testing.T, r *rotated) {
			other := t.TempDir()
			r.vhost.Node.ClientCertificate(t, other, "other")
			if err := os.Rename(filepath.Join(other, "key.pem"), filepath.Join(r.dir, "key.pem")); err != nil {
				t.Fatal(err)
			}
		}, []string{"%s: it does not go with ?keyfile="}},
		{"no certificate in the file", func(t *testing.T, r *rotated) {
			if err := os.WriteFile(cert(r), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"%s: "}},
		{"no file", func(t *testing.T, r *rotated) {
			if err := os.Remove(cert(r)); err != nil {
				t.Fatal(err)
			}
		}, []string{"open %s: no such file or directory", "readable for the daemon"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, done := newRotated(t), newLedger()
			d := runConfig(t, r.config(quick(done)), nil)
			test.spoil(t, r)
			err := d.Renew(t.Context())
			for _, want := range test.want {
				if want = strings.ReplaceAll(want, "%s", cert(r)); !strings.Contains(errorText(err), want) {
					t.Errorf("the error is %v\nwant %q in it", err, want)
				}
			}
			r.vhost.Publish(t, "orders", amqp.Publishing{MessageId: "still"})
			rabbittest.Eventually(t, 20*time.Second, func() bool { return len(done.of("still")) == 1 }, "the work goes on")
			if contains(d.log, "connection lost") {
				t.Error("a connection was lost")
			}
			r.vhost.CloseConnections(t, "lost")
			rabbittest.Eventually(t, 30*time.Second, func() bool { return strings.Count(d.log.String(), "msg=consuming") >= 2 }, "the queue is consumed again")
			for _, want := range []string{"new passwords or certificates do not work, the last ones that did are used on", `source="file /etc/warren/amqp_url"`} {
				if !contains(d.log, want) {
					t.Errorf("the log lacks %q", want)
				}
			}
			r.rotate(t)
			if err := d.Renew(t.Context()); err != nil {
				t.Errorf("with good ones: %v", err)
			}
			r.vhost.Publish(t, "orders", amqp.Publishing{MessageId: "again"})
			rabbittest.Eventually(t, 20*time.Second, func() bool { return len(done.of("again")) == 1 }, "the work goes on")
			r.wantPeers(t)
			if contains(d.log, "wr0ng-secret") || strings.Contains(errorText(err), "wr0ng-secret") {
				t.Error("the password is told")
			}
		})
	}
}

// Renewing with nothing new keeps the connection, and without a connection there is nothing
// to renew.
func TestNothingToRenew(t *testing.T) {
	r := newRotated(t)
	d := runConfig(t, r.config(quick(newLedger())), nil)
	equal(t, d.Renew(t.Context()), nil)
	if contains(d.log, "connected anew") {
		t.Error("it has connected anew with the same secrets")
	}
	if _, err := d.end(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := d.Renew(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a connection: got %v, want a deadline exceeded", err)
	}
}
