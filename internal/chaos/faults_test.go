//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A fault is one that is planned: what, where, for how long, and how long after the end of
// the one before.
type fault struct {
	kind   string
	slot   int // of a worker's or its network
	lasts  time.Duration
	after  time.Duration
	choice int // of what else there is to choose
}

// The kinds of faults of one worker, those of all, those that take all of them ten
// seconds, which are rarer, and those of a cluster in their place.
var (
	ofWorkers = []string{"worker killed", "worker stopped", "worker paused", "link cut", "link refused", "link stalled", "link half-open out", "link half-open in", "link slow"}
	ofAll     = []string{"node paused", "memory alarm", "connections closed", "wait queues deleted", "dead-letter queue deleted", "hostile messages"}
	heavy     = []string{"node killed", "node restarted"}
	ofCluster = []string{"node killed", "node restarted", "node drained", "node frozen", "node cut off", "node vanished", "two nodes killed"}
)

// diskFull is a fault of all where a small disk can be had.
const diskFull = "disk full"

// A lane makes one fault after the other.
type lane struct {
	r     *rand.Rand
	next  []string
	round int
	kinds func(round int) []string
	slots []int
}

func newLane(seed, number uint64, slots []int, kinds func(round int) []string) *lane {
	return &lane{r: rand.New(rand.NewPCG(seed, number)), kinds: kinds, slots: slots}
}

// plan returns the next fault of the lane, the same one for the same seed. Each kind comes
// once before any comes again.
func (l *lane) plan() fault {
	if len(l.next) == 0 {
		l.next = append(l.next, l.kinds(l.round)...)
		l.r.Shuffle(len(l.next), func(i, k int) { l.next[i], l.next[k] = l.next[k], l.next[i] })
		l.round++
	}
	f := fault{kind: l.next[0], after: time.Duration(200+l.r.IntN(800)) * time.Millisecond, choice: l.r.IntN(1 << 30)}
	l.next = l.next[1:]
	f.lasts = time.Duration(200+l.r.IntN(1800)) * time.Millisecond
	// Now and then so long that heartbeats are missed.
	if long := l.r.IntN(8) == 0; long && (strings.HasPrefix(f.kind, "link stalled") || strings.HasPrefix(f.kind, "link half-open") || f.kind == "worker paused") {
		f.lasts += 20 * time.Second
	}
	// So long, now and then, that the other nodes give it up.
	if f.kind == "node frozen" || f.kind == "node cut off" || f.kind == "node vanished" {
		f.lasts *= 10
	}
	if len(l.slots) > 0 {
		f.slot = l.slots[l.r.IntN(len(l.slots))]
	}
	return f
}

// rage makes faults until ctx ends.
func (m *machine) rage(ctx context.Context, l *lane) {
	for {
		f := l.plan()
		if !pause(ctx, f.after) {
			return
		}
		if err := m.make(f); err != nil {
			m.t.Errorf("fault %+v: %v", f, err)
			m.giveUp()
			return
		}
	}
}

// make makes a fault, undoes it, and writes it down.
func (m *machine) make(f fault) error {
	e := event{At: time.Now().UnixMicro(), Event: "fault", Kind: f.kind}
	if strings.HasPrefix(f.kind, "worker") || strings.HasPrefix(f.kind, "link") {
		e.Worker = m.slots[f.slot].running.name
	}
	err := m.do(f)
	e.Until = time.Now().UnixMicro()
	m.ledger.write(e)
	m.log("%s %s for %v", f.kind, e.Worker, time.Duration(e.Until-e.At)*time.Microsecond)
	return err
}

func (m *machine) do(f fault) error {
	s := m.slots[f.slot]
	node := m.nodes[f.choice%len(m.nodes)]
	wait := func() { <-time.After(f.lasts) }
	direction := map[string]rabbittest.Direction{"link stalled": rabbittest.BothWays, "link half-open out": rabbittest.ToNode, "link half-open in": rabbittest.FromNode}
	switch f.kind {
	case "worker killed":
		s.running.signal(syscall.SIGKILL)
		return errors.Join(s.running.await(time.Minute), s.start())
	case "worker stopped":
		return errors.Join(s.stop(), s.start())
	case "worker paused":
		s.running.signal(syscall.SIGSTOP)
		wait()
		s.running.signal(syscall.SIGCONT)
	case "link cut":
		s.each(func(p *rabbittest.Proxy) { p.Cut() })
	case "link refused":
		s.each(func(p *rabbittest.Proxy) { p.Refuse() })
		wait()
		s.restore()
	case "link stalled", "link half-open out", "link half-open in":
		s.each(func(p *rabbittest.Proxy) { p.Stall(direction[f.kind]) })
		wait()
		s.restore()
	case "link slow":
		s.each(func(p *rabbittest.Proxy) { p.Slow(time.Duration(10+f.choice%90) * time.Millisecond) })
		wait()
		s.restore()
	case "node paused":
		node.Pause()
		wait()
		node.Resume()
	case "node killed":
		kill(node)
		return node.Restart(context.Background())
	case "two nodes killed":
		other := m.nodes[(f.choice+1)%len(m.nodes)]
		kill(node)
		kill(other)
		wait()
		m.cluster.Mend(m.t)
	case "node restarted":
		return node.Restart(context.Background())
	case "node drained":
		if err := node.Drain(); err != nil {
			return err
		}
		return node.Restart(context.Background())
	case "node frozen":
		m.cluster.Pause(node)
		wait()
		m.cluster.Mend(m.t)
	case "node cut off":
		m.cluster.Cut(m.t, node)
		wait()
		m.cluster.Mend(m.t)
	case "node vanished":
		m.cluster.Vanish(m.t, node)
		wait()
		m.cluster.Mend(m.t)
	case "memory alarm":
		if err := node.MemoryAlarm(true); err != nil {
			return err
		}
		wait()
		return node.MemoryAlarm(false)
	case "connections closed":
		_, err := m.vhost.Node.CloseConnections(m.vhost.Name, "chaos")
		return err
	case "wait queues deleted":
		queue := []string{"webhook", "command", "inbox", "log"}[f.choice%4]
		for _, step := range []string{"1s", "2s", "4s"} {
			if err := m.deleteQueue(queue, "warren.wait."+queue+"."+step); err != nil {
				return err
			}
		}
	case "dead-letter queue deleted":
		queue := []string{"webhook", "command", "inbox", "email", "sql"}[f.choice%5]
		return m.deleteQueue(queue, queue+".dead")
	case "hostile messages":
		return m.publishHostile(uint64(f.choice))
	case diskFull:
		return m.fillDisk(wait)
	default:
		panic("no fault is called " + f.kind)
	}
	return nil
}

// each does something to the whole network of a slot.
func (s *slot) each(do func(*rabbittest.Proxy)) {
	for _, p := range s.network {
		do(p)
	}
}

func (s *slot) restore() { s.each(func(p *rabbittest.Proxy) { p.Restore(s.m.t) }) }

// kill ends a node at once. RabbitMQ 3.10 loses the leader of a queue for good that was
// declared after the last sync: no time may pass between the two.
func kill(n *rabbittest.Node) {
	_, _ = n.Eval("lists:foreach(fun dets:sync/1, dets:all()), erlang:halt(137, [{flush, false}])")
	n.Kill()
}

// stop ends a worker as systemd does.
func (s *slot) stop() error {
	s.running.signal(syscall.SIGTERM)
	if err := s.running.await(40 * time.Second); err != nil {
		return err
	}
	const abandoned = 2 // what cannot be published, since a queue has no leader, say
	if s.running.lines == 0 {
		return nil // the program had not begun
	}
	if status := s.running.state.ExitCode(); status != 0 && status != abandoned {
		return fmt.Errorf("worker %s: exit status %d after SIGTERM, want 0; see its log", s.running.name, status)
	}
	return nil
}

// deleteQueue deletes a queue, if there is one, and writes down what was in it for the
// work queue.
func (m *machine) deleteQueue(work, name string) error {
	err := m.drain(name, func(id string) { m.ledger.write(event{Event: "deleted", Queue: work, ID: id}) })
	if missing, is := errors.AsType[*amqp.Error](err); is && missing.Code == amqp.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	// What came since has no name, and what comes between the two is not even counted.
	value, err := m.vhost.Node.Eval(fmt.Sprintf(`begin
		{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"%s">>)),
		From = os:system_time(microsecond),
		{ok, {_, #{num_messages := N}}, _} = ra:leader_query(amqqueue:get_pid(Q), {rabbit_fifo, overview, []}),
		{ok, _} = rabbit_amqqueue:delete(Q, false, false, <<"chaos">>),
		{From, N, os:system_time(microsecond)} end`, m.vhost.Name, name))
	if err != nil {
		return err
	}
	e := event{Event: "deleted", Queue: work}
	if _, err := fmt.Sscanf(value, "{%d, %d, %d}", &e.At, &e.Count, &e.Until); err != nil {
		return fmt.Errorf("delete queue %s: %w: %s", name, err, value)
	}
	m.ledger.write(e)
	return nil
}

// fillDisk takes all that is left of the small disk for a while.
func (m *machine) fillDisk(wait func()) error {
	name := filepath.Join(m.disk, "ballast")
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for {
		if _, err = f.Write(block); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	wait()
	return errors.Join(f.Close(), os.Remove(name))
}
