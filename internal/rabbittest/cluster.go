package rabbittest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// ClusterMain is [Main] for a package that tests against a cluster. It runs the tests in a
// network of their own, in which each node has a host of its own that can be cut off, and
// which ends with them. It needs root's rights.
func ClusterMain(m *testing.M) {
	if os.Getenv(networkVariable) == "" {
		os.Exit(inOwnNetwork())
	}
	if err := makeNetwork(); err != nil {
		fmt.Fprintln(os.Stderr, "rabbittest:", err)
		os.Exit(1)
	}
	Main(m)
}

const networkVariable = "RABBITTEST_NETWORK"

// inOwnNetwork runs this program again in a network of its own, and returns its exit code.
func inOwnNetwork() int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "rabbittest: a cluster needs a network of its own, and that root's rights: run this with sudo")
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), networkVariable+"=own")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if ended, ok := errors.AsType[*exec.ExitError](err); ok && ended.ExitCode() >= 0 {
			return ended.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "rabbittest: run the tests in a network of their own:", err)
		return 1
	}
	return 0
}

// What a rule of the network has to come before.
const (
	cutRule    = "10" // the one that drops
	localRules = "100"
)

// makeNetwork has this process pass packets on between the hosts, unless a rule drops
// them: that of the kernel which would come before any is moved behind.
func makeNetwork() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("make a network: %w", err)
	}
	return errors.Join(
		ip("link", "set", "lo", "up"),
		ip("rule", "add", "pref", localRules, "lookup", "local"),
		ip("rule", "del", "pref", "0"),
	)
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// A member is what a node of a cluster has beside one that is alone.
type member struct {
	number int // from 1 on
	host   string
	cookie string
	forms  []string // the names of the nodes that it forms a cluster with, its own among them
	holder *process // keeps the host there while no node runs
}

// conf is what the configuration of the node has about its cluster.
func (m *member) conf() string {
	var b strings.Builder
	b.WriteString("cluster_formation.peer_discovery_backend = classic_config\n")
	for i, name := range m.forms {
		fmt.Fprintf(&b, "cluster_formation.classic_config.nodes.%d = %s\n", i+1, name)
	}
	return b.String()
}

// NetTicktime is how many seconds the nodes of a cluster may be silent, give or take a
// quarter, before the others count them as down; RabbitMQ's own default is 60.
const NetTicktime = 10

// arguments are for the Erlang machine of the node.
func (m *member) arguments() string {
	if m == nil {
		return ""
	}
	return fmt.Sprintf("-kernel net_ticktime %d ", NetTicktime)
}

// in is the command that runs a program on the host of a node.
func (m *member) in(program string, args []string) []string {
	argv := append([]string{program}, args...)
	if m != nil {
		argv = append([]string{"nsenter", "--net", "--target", strconv.Itoa(m.holder.pid)}, argv...)
	}
	return argv
}

// makeHost makes the host of the node of that number: a network with an address, that
// reaches the others through this process's.
func makeHost(number int) (*member, error) {
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	holder, err := startProcess(cmd)
	if err != nil {
		return nil, err
	}
	m := &member{number: number, host: fmt.Sprintf("10.99.%d.2", number), holder: holder}
	gateway := fmt.Sprintf("10.99.%d.1", number)
	inside := func(args ...string) error {
		argv := m.in("ip", args)
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
		return nil
	}
	for _, step := range []func() error{
		func() error {
			return ip("link", "add", m.link(), "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(holder.pid))
		},
		func() error { return ip("addr", "add", gateway+"/24", "dev", m.link()) },
		func() error { return ip("link", "set", m.link(), "up") },
		func() error { return inside("link", "set", "lo", "up") },
		func() error { return inside("addr", "add", m.host+"/24", "dev", "eth0") },
		func() error { return inside("link", "set", "eth0", "up") },
		func() error { return inside("route", "add", "default", "via", gateway) },
	} {
		if err := step(); err != nil {
			holder.kill()
			return nil, err
		}
	}
	return m, nil
}

// link is this process's end of the cable to the host.
func (m *member) link() string { return fmt.Sprintf("host%d", m.number) }

// A Cluster is one of private nodes, each on a host of its own. Its methods may be used by
// one goroutine at a time.
type Cluster struct {
	// Nodes are those there are. A test may stop, kill and pause them.
	Nodes []*Node

	dir    string
	cookie string
	leash  *leash
	cuts   map[*Node]bool // may have lost touch with the others since the last mend
}

// StartCluster starts a cluster of so many nodes, which ends with the test. It takes about
// three times as long as a node. Only a package whose TestMain is [ClusterMain] may use it.
func StartCluster(t testing.TB, nodes int) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "rabbittest-")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{dir: dir, cookie: rand.Text(), cuts: make(map[*Node]bool)}
	if c.leash, err = startLeash(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range c.Nodes {
			n.Kill()
			n.member.holder.kill()
		}
		if err := c.leash.release(); err != nil {
			t.Error(err)
		}
	})
	began := time.Now()
	c.add(t, 1)
	shared.mu.Lock()
	shared.took = time.Since(began)
	shared.mu.Unlock()
	if nodes > 1 {
		c.add(t, nodes-1)
	}
	return c
}

// Add adds a node to the cluster.
func (c *Cluster) Add(t testing.TB) *Node {
	t.Helper()
	c.add(t, 1)
	return c.Nodes[len(c.Nodes)-1]
}

// add adds so many nodes, which start side by side.
func (c *Cluster) add(t testing.TB, nodes int) {
	t.Helper()
	added, errs := make([]*Node, nodes), make([]error, nodes)
	var adding sync.WaitGroup
	for i := range added {
		adding.Go(func() { added[i], errs[i] = c.start(len(c.Nodes) + i + 1) })
	}
	adding.Wait()
	for i, n := range added {
		if errs[i] == nil {
			c.Nodes = append(c.Nodes, n)
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("start the nodes of a cluster: %v", err)
	}
	Eventually(t, time.Minute, func() bool {
		up, err := c.Nodes[0].Eval("length(rabbit_nodes:all_running())")
		return err == nil && up == strconv.Itoa(len(c.Nodes))
	}, fmt.Sprintf("the first node of the cluster sees %d running", len(c.Nodes)))
}

// start starts the node of that number.
func (c *Cluster) start(number int) (*Node, error) {
	m, err := makeHost(number)
	if err != nil {
		return nil, err
	}
	m.cookie = c.cookie
	if number > 1 {
		m.forms = append(m.forms, c.Nodes[0].Name())
	}
	m.forms = append(m.forms, "warren@"+m.host)
	n, err := Start(context.Background(), Options{Dir: filepath.Join(c.dir, strconv.Itoa(m.number)), member: m})
	if err != nil {
		m.holder.kill()
	}
	return n, err
}

// Cut drops all packets between a node and the others. Clients reach it as before.
func (c *Cluster) Cut(t testing.TB, n *Node) {
	t.Helper()
	c.cuts[n] = true
	for _, other := range c.Nodes {
		if other == n {
			continue
		}
		for _, way := range [][2]*Node{{n, other}, {other, n}} {
			c.rule(t, "from", way[0].host(), "to", way[1].host())
		}
	}
}

// Vanish drops all packets from a node, to other nodes and to clients.
func (c *Cluster) Vanish(t testing.TB, n *Node) {
	t.Helper()
	c.cuts[n] = true
	c.rule(t, "iif", n.member.link())
}

func (c *Cluster) rule(t testing.TB, match ...string) {
	t.Helper()
	args := append(append([]string{"rule", "add", "pref", cutRule}, match...), "blackhole")
	if err := ip(args...); err != nil {
		t.Fatal(err)
	}
}

// Heal ends all cuts.
func (c *Cluster) Heal() {
	for ip("rule", "del", "pref", cutRule) == nil {
	}
}

// Pause freezes a node, as [Node.Pause] does. The others may take it for one that is down.
func (c *Cluster) Pause(n *Node) {
	c.cuts[n] = true
	n.Pause()
}

// Mend has all nodes run, and be of one cluster again. One that may have lost touch with
// the others is started anew, as an operator has to, who has it not do so by itself.
func (c *Cluster) Mend(t testing.TB) {
	t.Helper()
	c.Heal()
	var mending sync.WaitGroup
	for _, n := range c.Nodes {
		n.Resume()
		mending.Go(func() {
			if c.cuts[n] {
				n.Kill() // an orderly end may wait for those that it has lost
			}
			if err := n.mend(context.Background()); err != nil {
				t.Errorf("mend node %s: %v", n.Name(), err)
			}
		})
	}
	mending.Wait()
	clear(c.cuts)
}

// Partitions sets what the nodes do when they are cut off: ignore or pause_minority.
func (c *Cluster) Partitions(t testing.TB, handling string) {
	t.Helper()
	for _, n := range c.Nodes {
		if err := n.do("application:set_env(rabbit, cluster_partition_handling, %s)", handling); err != nil {
			t.Fatal(err)
		}
	}
}

// Leader returns the node that has the leader of a quorum queue, as another one that can
// be asked has it; nil if none.
func (c *Cluster) Leader(t testing.TB, vhost, queue string) *Node {
	t.Helper()
	for _, asked := range c.Nodes {
		if !asked.usable() {
			continue
		}
		value, err := asked.Eval(fmt.Sprintf("begin {ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(%s, queue, %s)), {_, Node} = amqqueue:get_pid(Q), Node end",
			term(vhost), term(queue)))
		if err != nil {
			t.Fatalf("ask for the leader of queue %s: %v", queue, err)
		}
		for _, n := range c.Nodes {
			if strings.Trim(value, "'") == n.Name() {
				return n
			}
		}
		return nil
	}
	return nil
}

// MoveLeader has a node lead a quorum queue.
func (c *Cluster) MoveLeader(t testing.TB, vhost, queue string, to *Node) {
	t.Helper()
	if c.Leader(t, vhost, queue) == to {
		return
	}
	value, err := to.Eval(fmt.Sprintf("begin {ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(%s, queue, %s)), {Result, _} = rabbit_quorum_queue:transfer_leadership(Q, node()), Result end",
		term(vhost), term(queue)))
	if err != nil || value != "migrated" && value != "ok" {
		t.Fatalf("move the leader of queue %s to %s: %s, %v", queue, to.Name(), value, err)
	}
}

// Drain does what rabbitmq-upgrade drain does: the node's clients are sent away, and its
// queues led by others. As an operator does, it tries again where RabbitMQ gives up because
// a connection that it was about to close has ended by itself.
func (n *Node) Drain() error {
	err := n.do("rabbit_maintenance:drain()")
	for tries := 0; err != nil && tries < 10 && strings.Contains(err.Error(), "noproc"); tries++ {
		err = n.do("rabbit_maintenance:drain()")
	}
	return err
}

// Revive undoes [Node.Drain].
func (n *Node) Revive() error { return n.do("rabbit_maintenance:revive()") }

// usable tells whether the node can be asked.
func (n *Node) usable() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.server != nil && n.server.running() && !n.paused
}

var clusterVhosts atomic.Int64

// NewVhost makes an empty vhost on the cluster, whose Node is the first. When the test
// ends, the cluster is mended and the vhost deleted.
func (c *Cluster) NewVhost(t testing.TB) *Vhost {
	t.Helper()
	node := c.Nodes[0]
	name := fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), clusterVhosts.Add(1))
	if err := node.addVhost(name); err != nil {
		t.Fatalf("make a vhost: %v", err)
	}
	t.Cleanup(func() {
		c.Mend(t)
		if err := node.deleteVhost(name); err != nil {
			t.Errorf("delete the vhost of the test: %v", err)
		}
	})
	return &Vhost{Node: node, Name: name, URL: node.URL(name)}
}

// URLs are those of a vhost on each node.
func (c *Cluster) URLs(v *Vhost) (urls []string) {
	for _, n := range c.Nodes {
		urls = append(urls, n.URL(v.Name))
	}
	return urls
}
