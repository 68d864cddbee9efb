//go:build chaos

package chaos

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A slot is a place where one worker at a time runs, with a stretch of network of its own.
// The fields below the line belong to whoever makes faults there.
type slot struct {
	m       *machine
	number  int
	stored  bool                // its workers have a database
	network []*rabbittest.Proxy // to each node
	admin   string              // the address of its workers' admin server
	// ---
	started int
	running *worker
}

// A worker is one process.
type worker struct {
	name  string // the slot's number, and which process of that slot it is
	pid   int
	ended chan struct{} // closed when it has ended and its log is read
	state *os.ProcessState
	lines int // of its log
}

// queues are what a worker of the slot works.
func (s *slot) queues() []string {
	if s.stored {
		return []string{"sql", "report", "inbox"}
	}
	return []string{"log", "webhook", "command", "email"}
}

func (s *slot) env(name string) []string {
	m := s.m
	var urls []string
	for _, p := range s.network {
		urls = append(urls, m.vhost.URLAt(p.Addr))
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"WARREN_AMQP_URL=" + strings.Join(urls, ","),
		"WARREN_ADMIN_ADDR=" + s.admin,
		"WARREN_ADMIN_PPROF=true",
		"WARREN_LOG_FORMAT=json",
		"WARREN_QUEUES=" + strings.Join(s.queues(), ","),
		"WARREN_SCHEDULES=tick",
		"WARREN_SCHEDULE_TICK_EVERY=1s",
		"WARREN_SCHEDULE_TICK_QUEUE=log",
		"WARREN_SCHEDULE_TICK_MISFIRE=all",
	}
	for _, queue := range s.queues() {
		prefix := "WARREN_QUEUE_" + strings.ToUpper(queue) + "_"
		env = append(env, prefix+"RETRY_MAX=4s", prefix+"CONCURRENCY=16", prefix+"PREFETCH=64")
		processor := queue
		switch queue {
		case "webhook", "inbox":
			processor = "webhook"
			env = append(env, prefix+"URL="+m.receiver.URL+"/"+queue+"/"+name)
		case "command":
			env = append(env, prefix+"COMMAND="+m.handler, prefix+"ENV=WORKER="+name+"\nLEDGER="+m.path("handlers.ledger"))
		case "email":
			env = append(env, prefix+"MAILDIR="+filepath.Join(m.disk, "mail"), prefix+"FROM=shop@example.com")
		case "sql":
			env = append(env, prefix+"STATEMENTS="+m.path("statements"))
		case "report":
			env = append(env, prefix+"REPORTS="+m.path("reports"), prefix+"OUTPUT="+filepath.Join(m.disk, "reports"))
		}
		env = append(env, prefix+"PROCESSOR="+processor)
	}
	if s.stored {
		env = append(env, "WARREN_DATABASE_URL="+m.database, "WARREN_MIGRATE=true")
	}
	return env
}

// start starts the next worker of the slot.
func (s *slot) start() error {
	s.started++
	name := fmt.Sprintf("%d.%d", s.number, s.started)
	log, err := os.Create(s.m.path("worker-" + name + ".log"))
	if err != nil {
		return err
	}
	cmd := exec.Command(s.m.warren, "run")
	cmd.Dir, cmd.Env = s.m.dir, s.env(name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	w := &worker{name: name, ended: make(chan struct{})}
	begun := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel takes its end for that of the parent
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			w.pid = cmd.Process.Pid
		}
		begun <- err
		if err != nil {
			return
		}
		w.lines = s.m.readLog(name, stderr, log)
		_ = cmd.Wait()
		w.state = cmd.ProcessState
		_ = log.Close()
		close(w.ended)
	}()
	if err := <-begun; err != nil {
		return err
	}
	s.running = w
	return nil
}

func (w *worker) signal(sig syscall.Signal) { _ = syscall.Kill(w.pid, sig) }

// await returns an error if the worker has not ended in time.
func (w *worker) await(timeout time.Duration) error {
	select {
	case <-w.ended:
		return nil
	case <-time.After(timeout):
		return fmt.Errorf("worker %s has not ended within %v", w.name, timeout)
	}
}

// readLog reads what a worker logs to its end, and returns how many lines that were. What the
// processor log says goes into the ledger, the rest into out.
func (m *machine) readLog(worker string, in io.Reader, out io.Writer) (n int) {
	lines := bufio.NewReaderSize(in, 1<<20)
	for ; ; n++ {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return n // a line cut off by SIGKILL is none
		}
		var line struct {
			Time  time.Time `json:"time"`
			Msg   string    `json:"msg"`
			Queue string    `json:"queue"`
			ID    string    `json:"message_id"`
			Tries int       `json:"attempt"`
		}
		if bytes.Contains(text, []byte(`"msg":"delivery"`)) && json.Unmarshal(text, &line) == nil && line.Msg == "delivery" {
			m.ledger.write(event{At: line.Time.UnixMicro(), Event: "done", Queue: line.Queue, ID: line.ID, Attempt: line.Tries, Worker: worker})
			m.finished(line.ID)
			if planned, ok := strings.CutPrefix(line.ID, "tick@"); ok {
				m.ticked(planned)
			}
			continue
		}
		_, _ = out.Write(text)
	}
}

// ask returns what the admin server of the worker answers.
func (s *slot) ask(path string) ([]byte, error) {
	client := http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	answer, err := client.Get("http://" + s.admin + path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}

// measures returns what a worker says of itself, and leaves its goroutines in a file.
func (s *slot) measures(when string) (goroutines, memory int64, err error) {
	text, err := s.ask("/metrics")
	if err != nil {
		return 0, 0, err
	}
	stacks, err := s.ask("/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, 0, err
	}
	if err := os.WriteFile(s.m.path(fmt.Sprintf("goroutines-%d-%s", s.number, when)), stacks, 0o644); err != nil {
		return 0, 0, err
	}
	for name, value := range map[string]*int64{"go_goroutines": &goroutines, "process_resident_memory_bytes": &memory} {
		found := regexp.MustCompile(`(?m)^` + name + `(?:\{[^}]*\})? (\S+)$`).FindSubmatch(text)
		if found == nil {
			return 0, 0, fmt.Errorf("no %s among the metrics", name)
		}
		f, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil {
			return 0, 0, err
		}
		*value = int64(f)
	}
	return goroutines, memory, nil
}
