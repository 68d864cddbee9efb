//go:build cluster

package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/schedule"
	"github.com/warrenmq/warren/internal/rabbittest"
)

func TestMain(m *testing.M) { rabbittest.ClusterMain(m) }

// A clusterLoad is a worker on a cluster, whose home is the first node, and a publisher
// on the last, both busy. Its processor writes down each attempt.
type clusterLoad struct {
	*running
	cluster *rabbittest.Cluster
	v       *rabbittest.Vhost
	proxies []*rabbittest.Proxy

	mu         sync.Mutex
	worked     []time.Time
	attempts   map[string]int // by message-id, that ended well
	confirmed  []string
	fired      []time.Time
	endPublish context.CancelFunc
	stopped    sync.WaitGroup
}

const clusterQueue = "work"

// startLoad starts them, with a backlog of so many messages.
func startLoad(t *testing.T, c *rabbittest.Cluster, backlog int) *clusterLoad {
	t.Helper()
	v := c.NewVhost(t)
	l := &clusterLoad{cluster: c, v: v, attempts: make(map[string]int)}
	var urls []string
	for _, n := range c.Nodes {
		p := rabbittest.NewProxy(t, n.Addr())
		l.proxies = append(l.proxies, p)
		urls = append(urls, v.URLAt(p.Addr))
	}
	work := Queue{Name: clusterQueue, Concurrency: 4, RetryBase: time.Second, Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		<-time.After(10 * time.Millisecond) // as long as work takes
		switch {
		case d.Type == "once" && d.Attempt == 1:
			return errors.New("fails the first time")
		case d.Type == "never":
			l.mu.Lock()
			defer l.mu.Unlock()
			l.attempts[d.MessageID]++
			return Permanent(errors.New("fails each time"))
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.attempts[d.MessageID]++
		l.worked = append(l.worked, time.Now())
		return nil
	})}
	ticks := Queue{Name: "ticks", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.fired = append(l.fired, time.Now())
		return nil
	})}
	l.running = runConfig(t, Config{
		Nodes: urls, Worker: "vm1 1.0", Queues: []Queue{work, ticks},
		Schedules: []schedule.Schedule{{Name: "tick", Cron: "* * * * * *", Queue: "ticks"}},
	}, nil)
	v.PublishN(t, clusterQueue, backlog, func(i int) amqp.Publishing {
		l.confirmed = append(l.confirmed, fmt.Sprintf("backlog %d", i))
		return amqp.Publishing{MessageId: l.confirmed[i], DeliveryMode: amqp.Persistent}
	})
	ctx, stop := context.WithCancel(context.Background())
	l.endPublish = stop
	l.stopped.Go(func() { l.publish(ctx) })
	t.Cleanup(func() {
		stop()
		l.stopped.Wait()
	})
	return l
}

// publish publishes a hundred messages a second, on whichever node takes them, the last
// first, and notes which are confirmed.
func (l *clusterLoad) publish(ctx context.Context) {
	for n, at := 0, len(l.cluster.Nodes)-1; ctx.Err() == nil; at = (at + 1) % len(l.cluster.Nodes) {
		conn, err := amqp.DialConfig(l.v.URLAt(l.cluster.Nodes[at].Addr()), amqp.Config{Heartbeat: time.Second})
		if err != nil {
			<-time.After(50 * time.Millisecond)
			continue
		}
		for ch, err := conn.Channel(); err == nil && ctx.Err() == nil; n++ {
			if err = ch.Confirm(false); err != nil {
				break
			}
			id := fmt.Sprintf("message %d", n)
			var confirm *amqp.DeferredConfirmation
			kind := [...]string{"", "once", "never"}[n%3]
			confirm, err = ch.PublishWithDeferredConfirmWithContext(ctx, "", clusterQueue, true, false, amqp.Publishing{MessageId: id, Type: kind, DeliveryMode: amqp.Persistent})
			if err != nil {
				break
			}
			within, cancel := context.WithTimeout(ctx, 3*time.Second)
			acked, waited := confirm.WaitContext(within)
			cancel()
			if waited != nil {
				break
			}
			if acked {
				l.mu.Lock()
				l.confirmed = append(l.confirmed, id)
				l.mu.Unlock()
			}
			<-time.After(10 * time.Millisecond)
		}
		_ = conn.CloseDeadline(time.Now().Add(100 * time.Millisecond))
	}
}

// gap is the longest time without work since then.
func (l *clusterLoad) gap(since time.Time) (longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return longestGap(l.worked, since)
}

func longestGap(times []time.Time, since time.Time) (longest time.Duration) {
	last := since
	for _, at := range append(slices.Clone(times), time.Now()) {
		if at.After(last) {
			longest, last = max(longest, at.Sub(last)), at
		}
	}
	return longest
}

// works blocks until so many messages have been worked since then.
func (l *clusterLoad) works(t *testing.T, since time.Time, atLeast int) {
	t.Helper()
	rabbittest.Eventually(t, time.Minute, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		n := 0
		for _, at := range l.worked {
			if at.After(since) {
				n++
			}
		}
		return n >= atLeast
	}, "messages are worked")
}

// finish mends the cluster, has all be worked, and fails the test if a message is lost. It
// logs what the figures are.
func (l *clusterLoad) finish(t *testing.T) {
	t.Helper()
	l.endPublish()
	l.stopped.Wait()
	l.cluster.Mend(t)
	missing := func() (ids []string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, id := range l.confirmed {
			if l.attempts[id] == 0 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	// Waits come home within the broker's round of three minutes.
	rabbittest.Eventually(t, 4*time.Minute, func() bool { return len(missing()) == 0 }, "all that was confirmed is done")
	if _, err := l.end(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	repeats := 0
	for _, n := range l.attempts {
		repeats += n - 1
	}
	t.Logf("RabbitMQ %s: %d confirmed, 0 lost, %d repeated", l.cluster.Nodes[0].Version(), len(l.confirmed), repeats)
}

// within fails the test if something took longer than it may, on a machine as slow as this.
func within(t *testing.T, what string, took, limit time.Duration) {
	t.Helper()
	t.Logf("%s: %v", what, took.Round(10*time.Millisecond))
	if most := time.Duration(float64(limit) * 2 * rabbittest.Slowness()); took > most {
		t.Errorf("%s: took %v, want at most %v (%v on a machine that has nothing else to do)", what, took, most, limit)
	}
}

func (l *clusterLoad) node() string { return l.Status().Connection.Node }

// silentAfter is how long the broker may need to notice that a node is silent.
const silentAfter = rabbittest.NetTicktime * 5 / 4 * time.Second

func TestCluster(t *testing.T) {
	c := rabbittest.StartCluster(t, 3)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *rabbittest.Cluster)
	}{
		{"the leader of the queue is killed", leaderKilled},
		{"the leader of the queue is paused", leaderPaused},
		{"the node of the worker is paused", nodePaused},
		{"the node of the worker vanishes", nodeVanishes},
		{"the node of the worker is cut off", func(t *testing.T, c *rabbittest.Cluster) { nodeCutOff(t, c, "ignore") }},
		{"it pauses when it is cut off", func(t *testing.T, c *rabbittest.Cluster) { nodeCutOff(t, c, "pause_minority") }},
		{"leaders of waits and dead letters are killed", otherLeadersKilled},
		{"all nodes restart, one after another", rollingRestart},
		{"two of three nodes are down", minority},
		{"a node is added", nodeAdded},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c) })
	}
}

func leaderKilled(t *testing.T, c *rabbittest.Cluster) {
	for i, who := range []string{"another node", "the node of the worker"} {
		l := startLoad(t, c, 2000)
		victim := c.Nodes[1-i]
		c.MoveLeader(t, l.v.Name, clusterQueue, victim)
		l.works(t, time.Now(), 100)
		killed := time.Now()
		victim.Kill()
		l.works(t, killed.Add(time.Second), 300)
		within(t, "without work, with the queue led by "+who, l.gap(killed), time.Second)
		l.finish(t)
	}
}

// leaderPaused pauses the leader of the queue for as long as the other nodes need to elect
// another one, and less than they need to give the node up.
func leaderPaused(t *testing.T, c *rabbittest.Cluster) {
	l := startLoad(t, c, 3000)
	c.MoveLeader(t, l.v.Name, clusterQueue, c.Nodes[1])
	l.works(t, time.Now(), 100)
	paused := time.Now()
	c.Pause(c.Nodes[1])
	rabbittest.Eventually(t, time.Minute, func() bool {
		leader, err := c.Nodes[0].Eval(fmt.Sprintf("ra_leaderboard:lookup_leader(list_to_atom(%q))", l.v.Name+"_"+clusterQueue))
		return err == nil && !strings.Contains(leader, c.Nodes[1].Name())
	}, "another node leads the queue")
	t.Logf("until another node led the queue: %v", time.Since(paused).Round(10*time.Millisecond))
	l.works(t, paused.Add(time.Second), 300)
	within(t, "without work", l.gap(paused), 6*time.Second)
	l.finish(t)
}

func nodePaused(t *testing.T, c *rabbittest.Cluster) {
	l := startLoad(t, c, 3000)
	c.MoveLeader(t, l.v.Name, clusterQueue, c.Nodes[0])
	l.works(t, time.Now(), 100)
	paused := time.Now()
	c.Pause(c.Nodes[0])
	l.works(t, paused.Add(time.Second), 300)
	within(t, "without work", l.gap(paused), silentAfter+5*time.Second)
	<-time.After(time.Until(paused.Add(pauseFor)))
	c.Nodes[0].Resume()
	resumed := time.Now()
	l.works(t, resumed, 100)
	within(t, "without work after it goes on", l.gap(resumed), 6*time.Second)
	l.finish(t)
}

var pauseFor = 30 * time.Second

func nodeVanishes(t *testing.T, c *rabbittest.Cluster) {
	l := startLoad(t, c, 3000)
	c.MoveLeader(t, l.v.Name, clusterQueue, c.Nodes[0])
	l.works(t, time.Now(), 100)
	gone := time.Now()
	c.Vanish(t, c.Nodes[0])
	l.works(t, gone.Add(time.Second), 300)
	within(t, "without work", l.gap(gone), 15*time.Second)
	l.finish(t)
}

func nodeCutOff(t *testing.T, c *rabbittest.Cluster, handling string) {
	c.Partitions(t, handling)
	l := startLoad(t, c, 3000)
	for _, queue := range []string{clusterQueue, "ticks"} {
		c.MoveLeader(t, l.v.Name, queue, c.Nodes[0])
	}
	l.works(t, time.Now(), 100)
	cut := time.Now()
	c.Cut(t, c.Nodes[0])
	rabbittest.Eventually(t, time.Minute, func() bool { return l.Status().Queues[0].Reason != "" }, "the queue counts as not consumed")
	within(t, "until the queue counted as not consumed", time.Since(cut), 5*time.Second)
	l.works(t, cut.Add(6*time.Second), 300)
	within(t, "without work", l.gap(cut), 15*time.Second)
	rabbittest.Eventually(t, 3*time.Minute, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.fired) > 0 && time.Since(l.fired[len(l.fired)-1]) < 2*time.Second && time.Since(cut) > 8*time.Second
	}, "the schedule fires again")
	l.mu.Lock()
	fired := longestGap(l.fired, cut)
	l.mu.Unlock()
	within(t, "without a firing of the schedule", fired, 20*time.Second)
	l.finish(t)
}

func otherLeadersKilled(t *testing.T, c *rabbittest.Cluster) {
	l := startLoad(t, c, 500)
	for i, queue := range []string{"warren.wait." + clusterQueue + ".1s", clusterQueue + ".dead"} {
		rabbittest.Eventually(t, time.Minute, func() bool { return l.v.Ready(t, queue) > 0 }, "there is something in "+queue)
		victim := c.Nodes[1+i]
		c.MoveLeader(t, l.v.Name, queue, victim)
		began := time.Now()
		victim.Kill()
		l.works(t, began, 100)
		if err := victim.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l.finish(t)
	dead := make(map[string]bool)
	for _, d := range l.v.Drain(t, clusterQueue+".dead") {
		dead[d.MessageId] = true
	}
	for _, id := range l.confirmed {
		var n int
		if k, _ := fmt.Sscanf(id, "message %d", &n); k == 1 && n%3 == 2 && !dead[id] {
			t.Errorf("%s is not among the dead letters", id)
		}
	}
}

func rollingRestart(t *testing.T, c *rabbittest.Cluster) {
	l := startLoad(t, c, 6000)
	l.works(t, time.Now(), 100)
	for _, n := range c.Nodes {
		began := time.Now()
		if err := n.Drain(); err != nil {
			t.Fatal(err)
		}
		l.works(t, began, 100)
		within(t, "without work while a node is drained", l.gap(began), time.Second)
		stopped := time.Now()
		if err := n.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		within(t, "without work while it restarts", l.gap(stopped), time.Second)
	}
	l.finish(t)
}

func minority(t *testing.T, c *rabbittest.Cluster) {
	l := startLoad(t, c, 3000)
	l.works(t, time.Now(), 100)
	for _, n := range c.Nodes[1:] {
		n.Kill()
	}
	down, before := time.Now(), l.connections()
	rabbittest.Eventually(t, time.Minute, func() bool { return l.Status().Queues[0].Reason != "" }, "the queue counts as not consumed")
	within(t, "until the queue counted as not consumed", time.Since(down), 5*time.Second)
	<-time.After(time.Until(down.Add(downFor)))
	connections := l.connections() - before
	t.Logf("%d connections in %v", connections, downFor)
	if most := int(20 * downFor / time.Minute); connections > most {
		t.Errorf("%d connections in %v, want %d at most", connections, downFor, most)
	}
	var starting sync.WaitGroup
	for _, n := range c.Nodes[1:] {
		starting.Go(func() {
			if err := n.Restart(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	back := time.Now()
	l.works(t, back, 100)
	within(t, "without work after they are back", l.gap(back), 5*time.Second)
	l.finish(t)
}

var downFor = time.Minute

// connections is how many there have been.
func (l *clusterLoad) connections() (n int) {
	for _, p := range l.proxies {
		n += p.Accepted()
	}
	return n
}

func nodeAdded(t *testing.T, c *rabbittest.Cluster) {
	l := startLoad(t, c, 3000)
	l.works(t, time.Now(), 100)
	began := time.Now()
	c.Add(t)
	within(t, "without work while a node is added", l.gap(began), time.Second)
	l.finish(t)
}
