package rabbittest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/freeport"
)

// A Node is a private RabbitMQ node. Its methods may be used by several goroutines.
// It ends with this process at the latest.
type Node struct {
	dir                               string
	commands                          commands
	port, tlsPort, distPort, epmdPort int
	member                            *member // nil: it is no cluster's

	mu      sync.Mutex
	server  *process // nil: not running
	epmd    *process // the name server by which the node is found; runs as long
	version string
	paused  bool
	alarm   bool
}

// startTimeout is for machines that start several nodes at once, beside much else. A node
// takes some seconds on one that does not.
const startTimeout = 10 * time.Minute

// Start starts a node and blocks until it accepts connections, ctx ends or ten
// minutes have passed; after an error nothing is running. The error names the
// package to install if there is no RabbitMQ, and otherwise holds the end of the
// node's log. The caller ends the node with [Node.Stop].
func Start(ctx context.Context, o Options) (*Node, error) {
	if o.Dir == "" {
		return nil, errors.New("a node needs a folder: Options.Dir is empty")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	programs, err := findCommands()
	if err != nil {
		return nil, err
	}
	n := &Node{dir: dir, commands: programs, port: o.Port, member: o.member}
	var ports []*int
	if n.member != nil { // has a host for itself
		n.port, n.distPort, n.epmdPort = 5672, 25672, 4369
	} else {
		ports = append(ports, &n.distPort, &n.epmdPort)
		if o.Port == 0 {
			ports = append(ports, &n.port)
		}
		if o.TLS {
			ports = append(ports, &n.tlsPort)
		}
	}
	for _, p := range ports {
		if *p, err = freeport.Port(); err != nil {
			return nil, err
		}
	}
	if err := n.writeFiles(); err != nil {
		return nil, fmt.Errorf("prepare the folder of a node: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.startLocked(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Node) startLocked(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	console, err := os.Create(n.path(consoleFile))
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }() // what runs has its own
	launch := func(name string, args ...string) (*process, error) {
		argv := n.member.in(name, args)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = n.dir, n.env(), console, console
		return startProcess(cmd)
	}
	if n.epmd, err = launch(n.commands.epmd, "-port", strconv.Itoa(n.epmdPort)); err != nil {
		return fmt.Errorf("start epmd: %w", err)
	}
	if n.server, err = launch(n.commands.server); err != nil {
		n.endLocked()
		return fmt.Errorf("start %s: %w", n.commands.server, err)
	}
	if err := n.awaitLocked(ctx); err != nil {
		n.endLocked()
		return fmt.Errorf("RabbitMQ (%s) did not come up: %w; the end of its log:\n%s", n.commands.server, err, n.lastWords())
	}
	return nil
}

// awaitLocked blocks until the node accepts connections. It asks the node itself
// whether it is up, since another program may be listening on its port.
func (n *Node) awaitLocked(ctx context.Context) error {
	for {
		up, err := n.Eval("rabbit:is_running()")
		if err == nil && up == "true" {
			var conn *amqp.Connection
			if conn, err = amqp.Dial(n.URL("/")); err == nil {
				n.version, _ = conn.Properties["version"].(string)
				return errors.Join(conn.Close(), n.checkVersion())
			}
		}
		select {
		case <-n.server.exited:
			return errors.New("it ended")
		case <-ctx.Done():
			return fmt.Errorf("%w; last error: %w", ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// checkVersion returns an error if the node is not of the version that is asked for.
func (n *Node) checkVersion() error {
	if want := os.Getenv("RABBITMQ_VERSION"); want != "" && !strings.HasPrefix(n.version, want+".") {
		return fmt.Errorf("it is RabbitMQ %s, but RABBITMQ_VERSION asks for %s; RABBITMQ_SERVER names another", n.version, want)
	}
	return nil
}

// Version is the node's, such as 3.10.8.
func (n *Node) Version() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.version
}

// endLocked kills what runs of the node and waits for it.
func (n *Node) endLocked() {
	for _, p := range []*process{n.server, n.epmd} {
		if p != nil {
			p.kill()
		}
	}
	n.server, n.epmd, n.paused, n.alarm = nil, nil, false, false
}

// Stop ends the node in an orderly way and blocks until nothing of it is running.
// A node that has not ended after five minutes is killed, and an error says so.
// Stopping a node that does not run does nothing.
func (n *Node) Stop() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stopLocked()
}

func (n *Node) stopLocked() error {
	if n.server == nil {
		return nil
	}
	defer n.endLocked()
	n.server.signal(syscall.SIGCONT)
	n.server.signal(syscall.SIGTERM)
	select {
	case <-n.server.exited:
		return nil
	case <-time.After(5 * time.Minute):
		return errors.New("RabbitMQ did not end within five minutes of SIGTERM and was killed; the end of its log:\n" + n.lastWords())
	}
}

// Kill ends the node with SIGKILL and blocks until nothing of it is running. What
// it had confirmed is there again after [Node.Restart].
//
// Where quorum queues keep their data is itself written to disk only every few
// seconds: killed sooner after its declaration, a queue comes back empty or without
// a leader. RabbitMQ 3.10 does that; since no client can do anything about it, Kill
// has that written first, unless the node is paused.
func (n *Node) Kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server != nil && n.server.running() && !n.paused {
		_, _ = n.Eval("lists:foreach(fun dets:sync/1, dets:all())") // a node too sick for it is killed all the same
	}
	n.endLocked()
}

// Restart starts the node again with the same ports and data, after stopping it if
// it runs, and blocks as [Start] does.
func (n *Node) Restart(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.stopLocked(); err != nil {
		return err
	}
	return n.startLocked(ctx)
}

// Pause freezes the node: its connections stay open, but nothing answers.
func (n *Node) Pause() { n.pause(true, (*process).freeze) }

// Resume lets a paused node go on.
func (n *Node) Resume() { n.pause(false, func(p *process) { p.signal(syscall.SIGCONT) }) }

func (n *Node) pause(paused bool, do func(*process)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server != nil {
		do(n.server)
		n.paused = paused
	}
}

// mend undoes every fault: afterwards the node runs and accepts messages.
func (n *Node) mend(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server == nil || !n.server.running() {
		n.endLocked()
		return n.startLocked(ctx)
	}
	n.server.signal(syscall.SIGCONT)
	n.paused = false
	if n.alarm {
		return n.alarmLocked(false)
	}
	return nil
}

// Addr is the host and port where the node listens for AMQP.
func (n *Node) Addr() string { return net.JoinHostPort(n.host(), strconv.Itoa(n.port)) }

// host is where the node is reached.
func (n *Node) host() string {
	if n.member != nil {
		return n.member.host
	}
	return "127.0.0.1"
}

// Name is what the broker calls the node. That of one which is no cluster's need not be
// unique: each has an epmd of its own to be known by.
func (n *Node) Name() string {
	if n.member != nil {
		return "warren@" + n.member.host
	}
	return "warren@localhost"
}

// TLSAddr is the host and port where the node listens for AMQP over TLS; without
// Options.TLS it is empty.
func (n *Node) TLSAddr() string {
	if n.tlsPort == 0 {
		return ""
	}
	return net.JoinHostPort(n.host(), strconv.Itoa(n.tlsPort))
}

// URL is the AMQP URL of a vhost of the node for the user guest, who may do
// everything.
func (n *Node) URL(vhost string) string { return amqpURL("amqp", "guest", "guest", n.Addr(), vhost) }

// TLSURL is as URL, over TLS. Connecting to it fails to verify the certificate
// unless [Node.CAFile] is trusted.
func (n *Node) TLSURL(vhost string) string {
	return amqpURL("amqps", "guest", "guest", n.TLSAddr(), vhost)
}

// CAFile is the path of the PEM file of the authority that signed the certificate
// of a node with Options.TLS. No system trusts it.
func (n *Node) CAFile() string { return n.path(caFile) }

// PID is the process id of the node; zero if it does not run.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server == nil {
		return 0
	}
	return n.server.pid
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func amqpURL(scheme, user, password, addr, vhost string) string {
	return scheme + "://" + url.UserPassword(user, password).String() + "@" + addr + "/" + url.PathEscape(vhost)
}
