package rabbittest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// holdVariable makes the test program start the node of its package, print its
// folder, and wait to be killed.
const holdVariable = "RABBITTEST_HOLD"

func TestMain(m *testing.M) {
	if os.Getenv(holdVariable) == "" {
		Main(m)
	}
	shared.ready = true
	node, err := shared.get()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(node.dir)
	select {}
}

func TestNothingOutlivesAKilledTestProcess(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdVariable+"=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	dir := strings.TrimSpace(line)
	if err != nil || !filepath.IsAbs(dir) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("folder of the node that the test process started: got %q and error %v, want a path", line, err)
	}
	t.Logf("a node was up after %v", time.Since(started).Round(time.Millisecond))
	running := processesAtHome(t, dir)
	for _, want := range []string{"beam.smp", "epmd"} {
		if !strings.Contains(strings.Join(running, "\n"), want) {
			t.Errorf("processes of the node: got %q, want one of %s", running, want)
		}
	}

	_ = cmd.Process.Kill()
	if err := cmd.Wait(); err == nil {
		t.Error("the test process ended by itself, want it killed")
	}
	Eventually(t, 10*time.Second, func() bool { return len(processesAtHome(t, dir)) == 0 },
		"no process of the node is running after the test process was killed")
	Eventually(t, 10*time.Second, func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist)
	}, "the folder of the node is gone after the test process was killed")
}

// processesAtHome returns the command lines of all processes whose HOME is dir.
func processesAtHome(t *testing.T, dir string) []string {
	t.Helper()
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range environments {
		env, _ := os.ReadFile(path) // it may have ended meanwhile
		if strings.Contains("\x00"+string(env), "\x00HOME="+dir+"\x00") {
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			found = append(found, strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return found
}

// A failing is a test whose failure is what a test wants to see.
type failing struct {
	testing.TB
	text string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.text = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// failureOf returns what a helper fails the test with; empty if it does not.
func failureOf(t *testing.T, helper func(t testing.TB)) string {
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		helper(f)
	}()
	<-done
	return f.text
}

func TestAMissingServerIsNamedWithItsRemedy(t *testing.T) {
	t.Setenv("RABBITMQ_SERVER", filepath.Join(t.TempDir(), "rabbitmq-server"))
	_, err := Start(t.Context(), Options{Dir: t.TempDir()})
	for _, want := range []string{"apt-get install rabbitmq-server", "RABBITMQ_SERVER"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("start without a server: got error %v, want one that names %s", err, want)
		}
	}
}

func TestANodeThatCannotStartSaysWhy(t *testing.T) {
	v := NewVhost(t)
	dir := t.TempDir()
	_, err := Start(t.Context(), Options{Dir: dir, Port: v.Node.port}) // which the shared node has
	if err == nil || !strings.Contains(err.Error(), "eaddrinuse") {
		t.Errorf("start on a port in use: got error %v, want one with the node's own eaddrinuse", err)
	}
	if left := processesAtHome(t, dir); len(left) > 0 {
		t.Errorf("processes after a failed start: got %q, want none", left)
	}
}

func TestEventuallyNamesWhatDidNotHappen(t *testing.T) {
	defer func(least time.Duration) { leastTimeout = least }(leastTimeout)
	leastTimeout = 0
	got := failureOf(t, func(t testing.TB) {
		Eventually(t, time.Millisecond, func() bool { return false }, "the queue is empty")
	})
	if want := ": the queue is empty"; !strings.HasPrefix(got, "not so after ") || !strings.HasSuffix(got, want) {
		t.Errorf("failure: got %q, want the time and %q", got, want)
	}
}

func TestASlowMachineIsGivenTime(t *testing.T) {
	for took, want := range map[time.Duration]float64{0: 1, usualStart / 2: 1, 3 * usualStart: 3} {
		if got := (&sharedNode{took: took}).slowness(); got != want {
			t.Errorf("slowness after a start of %v: got %v, want %v", took, got, want)
		}
	}
}

// dial connects to a URL until the test ends.
func dial(t *testing.T, url string) *amqp.Connection {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) })
	return conn
}

// await returns the next value of c, or fails the test if none comes in time.
func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: got nothing for %v, want one", what, patience)
		panic("unreachable")
	}
}
