//go:build chaos

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/time/rate"

	"github.com/warrenmq/warren/internal/freeport"
	"github.com/warrenmq/warren/internal/pgtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

const (
	workers    = 4
	publishers = 4
	fiendName  = "fiend"
	warmUp     = 5 * time.Second
	// drainTimeout is how long it may take until all is done, when nothing is broken any more:
	// the broker tries again every three minutes to send home what it could not when it was
	// due, while it started, say. After a partition of a cluster it may take two such rounds.
	drainTimeout        = 4 * time.Minute
	clusterDrainTimeout = 7 * time.Minute
)

// A machine is one run.
type machine struct {
	t        *testing.T
	seed     uint64
	dir      string // of ledgers and logs
	disk     string // a small one, if it can be had
	small    bool   // it was
	warren   string
	handler  string
	vhost    *rabbittest.Vhost
	cluster  *rabbittest.Cluster // nil: there is one node
	nodes    []*rabbittest.Node
	database string
	fiendURL string
	receiver *httptest.Server
	ledger   *ledger
	slots    []*slot
	rate     *rate.Limiter
	giveUp   context.CancelFunc // ends the faults
	began    time.Time

	confirmed, ended, received, hostile atomic.Int64

	mu   sync.Mutex
	tick string // the last that was worked
	out  *os.File
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

// log writes a line into the run's own log.
func (m *machine) log(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintf(m.out, "%s "+format+"\n", append([]any{time.Now().UTC().Format("15:04:05.000")}, args...)...)
}

func (m *machine) ticked(planned string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tick = max(m.tick, planned)
}

func (m *machine) lastTick() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tick
}

// prepare makes all that a run needs and starts nothing that works.
func prepare(t *testing.T, dir, warren string, seed uint64, perSecond float64) *machine {
	m := &machine{t: t, seed: seed, dir: dir, warren: warren, rate: rate.NewLimiter(rate.Limit(perSecond), window)}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	m.out, err = os.Create(m.path("chaos.log"))
	check(err)
	t.Cleanup(func() { _ = m.out.Close() })
	script, err := os.ReadFile("testdata/handler")
	check(err)
	m.handler = m.path("handler")
	check(os.WriteFile(m.handler, script, 0o755))
	for name, text := range map[string]string{
		"statements/effect.sql": "-- param: n int\nINSERT INTO effects (n) VALUES (:n)",
		"reports/number.sql":    "-- param: n int\nSELECT :n AS n",
	} {
		check(os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
		check(os.WriteFile(m.path(name), []byte(text), 0o644))
	}
	m.disk = m.path("disk")
	check(os.MkdirAll(m.disk, 0o755))
	if err := syscall.Mount("tmpfs", m.disk, "tmpfs", 0, "size=256m"); err != nil {
		t.Logf("no small disk to fill up: %v", err)
	} else {
		m.small = true
		t.Cleanup(func() { _ = syscall.Unmount(m.disk, syscall.MNT_DETACH) })
	}
	m.ledger = newLedger(t, m.path("chaos.ledger"))
	m.hostile.Store(9_000_000_000)

	if *cluster {
		m.cluster = rabbittest.StartCluster(t, 3)
		m.vhost, m.nodes = m.cluster.NewVhost(t), m.cluster.Nodes
	} else {
		m.vhost = rabbittest.NewVhost(t)
		m.nodes = []*rabbittest.Node{m.vhost.Node}
	}
	m.fiendURL = m.vhost.AddUser(t, fiendName, "pw", "^$", ".*", "^$")
	m.vhost.Declare(t, "relayed", nil)
	m.database = pgtest.Start(t).URL()
	m.query("CREATE TABLE effects (n bigint)", nil)
	m.receiver = httptest.NewServer(http.HandlerFunc(m.receive))
	t.Cleanup(m.receiver.Close)
	for i := range workers {
		port, err := freeport.Port()
		check(err)
		s := &slot{m: m, number: i + 1, stored: i%2 == 1, admin: fmt.Sprintf("127.0.0.1:%d", port)}
		for _, n := range m.nodes {
			s.network = append(s.network, rabbittest.NewProxy(t, n.Addr()))
		}
		m.slots = append(m.slots, s)
	}
	return m
}

// query hands each row of a query, a pair of numbers, to f.
func (m *machine) query(text string, f func(a, b int64)) {
	m.t.Helper()
	conn, err := pgx.Connect(context.Background(), m.database)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(context.Background(), text)
	if err != nil {
		m.t.Fatal(err)
	}
	for rows.Next() {
		var a, b int64
		if err := rows.Scan(&a, &b); err != nil {
			m.t.Fatal(err)
		}
		f(a, b)
	}
	if err := rows.Err(); err != nil {
		m.t.Fatalf("%s: %v", text, err)
	}
}

// run has the workers work, and things break for so long; then all is mended, drained and
// written down.
func (m *machine) run(duration time.Duration) {
	t := m.t
	for _, s := range m.slots {
		if err := s.start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			s.running.signal(syscall.SIGKILL)
			<-s.running.ended
		})
	}
	if !m.await(2*time.Minute, "all consume", func(q []queue) bool { return m.wanting(q) == "" }) {
		t.FailNow()
	}

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var load sync.WaitGroup
	for i := range publishers {
		load.Go(func() { m.publish(ctx, m.seed, i+1) })
	}
	rows := make(chan error, 1)
	load.Go(func() { rows <- m.writeRows(ctx) })
	scheduled := event{At: time.Now().Add(time.Second).UnixMicro(), Event: "schedule", Queue: "log", ID: "tick", Every: 1_000_000}
	<-time.After(warmUp)
	before := m.measure("before")

	faults, giveUp := context.WithTimeout(ctx, duration)
	defer giveUp()
	m.giveUp = giveUp
	m.began = time.Now()
	var lanes sync.WaitGroup
	kinds := func(int) []string { return ofWorkers }
	lanes.Go(func() { m.rage(faults, newLane(m.seed, 1, []int{0, 2}, kinds)) })
	lanes.Go(func() { m.rage(faults, newLane(m.seed, 2, []int{1, 3}, kinds)) })
	lanes.Go(func() { m.rage(faults, newLane(m.seed, 3, nil, m.kindsOfAll)) })
	lanes.Wait()
	stop()
	load.Wait()
	if err := <-rows; err != nil {
		t.Fatalf("write rows: %v", err)
	}

	scheduled.Until = time.Now().UnixMicro()
	last := time.UnixMicro(scheduled.Until).UTC().Format(time.RFC3339)
	drained := time.Now()
	m.elect()
	timeout := drainTimeout
	if m.cluster != nil {
		timeout = clusterDrainTimeout
	}
	m.await(timeout, "all is done", func(q []queue) bool {
		return m.lastTick() >= last && !slices.ContainsFunc(q, func(q queue) bool { return q.undone() > 0 })
	})
	t.Logf("drained in %v", time.Since(drained).Round(100*time.Millisecond))
	m.ledger.write(scheduled)
	m.collect()
	m.account(before)
	for _, s := range m.slots {
		if err := s.stop(); err != nil {
			t.Errorf("at the end: %v", err)
		}
	}
	m.ledger.close(t)
}

// kindsOfAll are the kinds of faults of all, in a round.
func (m *machine) kindsOfAll(round int) []string {
	kinds := append(slices.Clone(ofAll), heavy[round%len(heavy)])
	if m.cluster != nil {
		kinds = append(slices.Clone(ofAll), ofCluster...)
	}
	if m.small {
		kinds = append(kinds, diskFull)
	}
	return append(kinds, ofAll...)
}

// aliveQueue is where daemons that know several nodes see whether one works.
const aliveQueue = "warren.alive"

// A queue is what the broker knows of one at this moment.
type queue struct {
	name                      string
	ready, unacked, consumers int
}

// undone is how many messages somebody has to do something about yet.
func (q queue) undone() int {
	switch {
	case strings.HasPrefix(q.name, "warren.schedule."): // has its token
		return max(0, q.ready+q.unacked-1)
	case strings.HasSuffix(q.name, ".dead"), q.name == "relayed", q.name == aliveQueue:
		return 0
	}
	return q.ready + q.unacked
}

var queueLine = regexp.MustCompile(`\{"([^"]+)",\s*(\d+),\s*(\d+),\s*(\d+)\}`)

// queues returns all queues there are that hold messages: not those in which daemons are
// asked something.
func (m *machine) queues() ([]queue, error) {
	value, err := m.vhost.Node.Eval(fmt.Sprintf(`[begin
		{ok, {_, #{num_messages := All, num_checked_out := Unacked, num_consumers := Consumers}}, _} = ra:leader_query(amqqueue:get_pid(Q), {rabbit_fifo, overview, []}),
		{resource, _, _, Name} = amqqueue:get_name(Q),
		{binary_to_list(Name), All - Unacked, Unacked, Consumers}
		end || Q <- rabbit_amqqueue:list(<<"%s">>), amqqueue:get_type(Q) =:= rabbit_quorum_queue]`, m.vhost.Name))
	if err != nil {
		return nil, err
	}
	var all []queue
	for _, found := range queueLine.FindAllStringSubmatch(value, -1) {
		q := queue{name: found[1]}
		q.ready, _ = strconv.Atoi(found[2])
		q.unacked, _ = strconv.Atoi(found[3])
		q.consumers, _ = strconv.Atoi(found[4])
		all = append(all, q)
	}
	return all, nil
}

// wanted are how many consumers each queue is to have.
func (m *machine) wanted() map[string]int {
	wanted := map[string]int{"warren.schedule.tick": 1} // the others stand by
	for _, s := range m.slots {
		for _, name := range s.queues() {
			wanted[name]++
		}
	}
	return wanted
}

// wanting names a queue that lacks consumers.
func (m *machine) wanting(all []queue) string {
	for name, n := range m.wanted() {
		i := slices.IndexFunc(all, func(q queue) bool { return q.name == name })
		if i < 0 || all[i].consumers < n {
			return name
		}
	}
	return ""
}

// await waits until the queues are as they should be. What they are in the end is the
// checker's matter.
func (m *machine) await(timeout time.Duration, what string, holds func([]queue) bool) bool {
	deadline := time.Now().Add(timeout)
	for {
		all, err := m.queues()
		if err == nil && holds(all) {
			return true
		}
		if time.Now().After(deadline) {
			m.t.Logf("not so within %v: %s; the queues are %+v (%v)", timeout, what, all, err)
			for _, q := range all {
				if q.undone() > 0 {
					m.t.Logf("queue %s: %s", q.name, m.autopsy(q.name))
				}
			}
			return false
		}
		<-time.After(250 * time.Millisecond)
	}
}

// elect does what docs/clusters.md tells operators to do about queues that the broker has
// left without a leader.
func (m *machine) elect() {
	value, err := m.vhost.Node.Eval(`[begin ra:trigger_election(amqqueue:get_pid(Q)), binary_to_list(element(4, amqqueue:get_name(Q))) end ||
		Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue, element(1, ra:members(amqqueue:get_pid(Q), 5000)) =/= ok]`)
	if err != nil {
		m.t.Errorf("look for queues without a leader: %v", err)
	} else if value != "[]" {
		m.t.Logf("the broker has left these queues without a leader, and was told to elect one: %s", value)
	}
}

// autopsy is what the broker knows of a queue.
func (m *machine) autopsy(name string) string {
	value, err := m.vhost.Node.Eval(fmt.Sprintf(`begin
		{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"%s">>)),
		{ok, {_, Overview}, _} = ra:leader_query(amqqueue:get_pid(Q), {rabbit_fifo, overview, []}),
		{ok, {_, State}, _} = ra:leader_query(amqqueue:get_pid(Q), fun(S) -> S end),
		lists:flatten(io_lib:format("at ~p: ~0p, its state ~0P, dead-lettering by ~0p", [erlang:system_time(millisecond), Overview, State, 150, length(supervisor:which_children(rabbit_fifo_dlx_sup))])) end`, m.vhost.Name, name))
	if err != nil {
		return err.Error()
	}
	return value
}

// collect writes down what is to be seen only at the end.
func (m *machine) collect() {
	drain := func(name string, e event) {
		if err := m.drain(name, func(id string) {
			e.At, e.ID = 0, id
			m.ledger.write(e)
		}); err != nil {
			m.t.Errorf("drain %s: %v", name, err)
		}
	}
	for _, s := range m.slots[:2] {
		for _, name := range s.queues() {
			drain(name+".dead", event{Event: "dead", Queue: name})
		}
	}
	drain("relayed", event{Event: "arrived", Queue: "relayed"})
	m.query("SELECT n, count(*) FROM effects GROUP BY n", func(n, times int64) {
		for range times {
			m.ledger.write(event{Event: "done", Queue: "sql", ID: strconv.FormatInt(n, 10), Exact: true})
		}
	})
	m.find("mail/new", regexp.MustCompile(`(?m)^Subject: (\d+)\r?$`), "email")
	m.find("reports", regexp.MustCompile(`(?m)^(\d+)\r?$`), "report")
}

// find writes down as done what files of a folder tell by their content.
func (m *machine) find(folder string, id *regexp.Regexp, queue string) {
	err := filepath.WalkDir(filepath.Join(m.disk, folder), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found := id.FindSubmatch(text)
		if found == nil {
			return fmt.Errorf("%s tells nothing of its message: %.300q", path, text)
		}
		m.ledger.write(event{Event: "done", Queue: queue, ID: string(found[1])})
		return nil
	})
	if err != nil {
		m.t.Error(err)
	}
}

// drain takes all that is in a queue, and hands the ids to f.
func (m *machine) drain(name string, f func(id string)) error {
	raw, err := rabbittest.OpenRaw(m.vhost.URL)
	if err != nil {
		return err
	}
	defer raw.Close()
	for {
		d, ok, err := raw.Get(name)
		if err != nil || !ok {
			return err
		}
		f(d.ID())
	}
}

// A measurement is of each worker; channels are those of all, divided by them.
type measurement struct {
	goroutines, memory [workers]int64
	channels           int64
}

func (m *machine) measure(when string) (all measurement) {
	for i, s := range m.slots {
		var err error
		if all.goroutines[i], all.memory[i], err = s.measures(when); err != nil {
			m.t.Errorf("measure worker %s: %v", s.running.name, err)
		}
	}
	_, channels, err := m.vhost.Node.Connections(m.vhost.Name)
	if err != nil {
		m.t.Error(err)
	}
	all.channels = int64(channels / workers)
	return all
}

// account writes down what is left.
func (m *machine) account(before measurement) {
	var all []queue
	m.await(time.Minute, "nothing is left, and all consume", func(q []queue) bool {
		all = q
		return m.wanting(q) == "" && !slices.ContainsFunc(q, func(q queue) bool { return q.undone() > 0 })
	})
	wanted := m.wanted()
	for _, q := range all {
		e := event{Event: "left", Queue: q.name, Ready: q.ready, Unacked: q.unacked, Consumers: q.consumers, Wanted: wanted[q.name]}
		if e.Ready+e.Unacked == 1 && (strings.HasPrefix(q.name, "warren.schedule.") || q.name == aliveQueue) {
			e.Ready, e.Unacked = 0, 0 // its token, or the last sign of life
		}
		m.ledger.write(e)
	}
	after := m.measure("after")
	for i, s := range m.slots {
		name := strconv.Itoa(s.number)
		m.ledger.write(event{Event: "measured", Kind: "goroutines", Worker: name, Before: before.goroutines[i], After: after.goroutines[i]})
		m.ledger.write(event{Event: "measured", Kind: "memory", Worker: name, Before: before.memory[i], After: after.memory[i]})
	}
	m.ledger.write(event{Event: "measured", Kind: "channels", Before: before.channels, After: after.channels})
}

// check has the checker decide.
func (m *machine) check(checker string, minimum float64) (status int, verdict string) {
	m.t.Helper()
	ledgers := []string{m.path("chaos.ledger"), m.path("handlers.ledger")}
	cmd := exec.Command(checker, append([]string{"-minimum", fmt.Sprint(minimum)}, ledgers...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			m.t.Fatal(err)
		}
	}
	if err := os.WriteFile(m.path("verdict"), out.Bytes(), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}
