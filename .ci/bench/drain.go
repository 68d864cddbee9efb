package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/bench/count"
)

// A result is what one run of a row has come to.
type result struct {
	count.Report
	broker float64 // microseconds a message
}

func (r result) rate() float64 { return r.Rate }
func (r result) cpu() float64  { return r.CPU }

// drain is drainFor without an interest in the result.
func (b *bench) drain(r row) error {
	_, err := b.drainFor(r)
	return err
}

// drainFor publishes what the row gets, and has its consumer drain it.
func (b *bench) drainFor(r row) (out result, err error) {
	conn, err := amqp.Dial(b.node.URL("/"))
	if err != nil {
		return out, err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return out, err
	}
	queues := names(r.queues)
	for _, q := range queues {
		// As Warren declares it.
		if _, err := ch.QueueDeclare(q, true, false, false, false, amqp.Table{
			amqp.QueueTypeArg: amqp.QueueTypeQuorum, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish, "x-dead-letter-exchange": "",
			"x-dead-letter-routing-key": q + ".dead", "x-dead-letter-strategy": "at-least-once", "x-delivery-limit": int64(20),
		}); err != nil {
			return out, err
		}
		defer func() {
			for _, name := range []string{q, q + ".dead", "warren.wait." + q + ".1024s", "warren.wait." + q + ".4096s"} {
				err = errors.Join(err, b.remove(name))
			}
		}()
	}
	if err := ch.Confirm(false); err != nil {
		return out, err
	}
	if r.pace == 0 {
		if err := publish(ch, r, queues); err != nil {
			return out, err
		}
	}
	cmd := b.command(r, queues)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return out, err
	}
	if err := cmd.Start(); err != nil {
		return out, err
	}
	defer func() {
		_ = cmd.Process.Kill() // what it leaves behind is deleted
		_ = cmd.Wait()
	}()
	if r.command {
		return b.watch(ch, r, cmd, queues[0])
	}
	published := make(chan error, 1)
	go func() {
		if r.pace > 0 {
			published <- publish(ch, r, queues)
		} else {
			published <- nil
		}
	}()
	var before time.Duration
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if lines.Text() == count.Begun {
			before = used(b.node.PID())
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &out.Report); err != nil {
			return out, fmt.Errorf("%q: %w", lines.Text(), err)
		}
		out.broker = float64((used(b.node.PID()) - before).Microseconds()) / float64(r.messages-r.messages/10)
		return out, <-published
	}
	text, _ := os.ReadFile(filepath.Join(b.dir, "stderr"))
	return out, fmt.Errorf("it ended early: %s", text)
}

// remove deletes a queue. RabbitMQ 3.10 sometimes ends the connection over one that was in
// use a moment ago (INTERNAL_ERROR), and deletes it the next time.
func (b *bench) remove(queue string) (err error) {
	for range 3 {
		var conn *amqp.Connection
		if conn, err = amqp.Dial(b.node.URL("/")); err != nil {
			return err
		}
		var ch *amqp.Channel
		if ch, err = conn.Channel(); err == nil {
			_, err = ch.QueueDelete(queue, false, false, false)
		}
		_ = conn.Close()
		if err == nil {
			return nil
		}
	}
	return err
}

// watch measures from outside what starts commands, until the queue is empty.
func (b *bench) watch(ch *amqp.Channel, r row, cmd *exec.Cmd, queue string) (out result, err error) {
	var began time.Time
	var worker, broker time.Duration
	counted := 0
	for {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil {
			return out, err
		}
		if began.IsZero() && q.Messages < r.messages*9/10 {
			began, counted = time.Now(), q.Messages
			worker, broker = used(cmd.Process.Pid), used(b.node.PID())
		}
		if q.Messages == 0 {
			n := float64(counted)
			out.Rate = n / time.Since(began).Seconds()
			out.CPU = float64((used(cmd.Process.Pid) - worker).Microseconds()) / n
			out.broker = float64((used(b.node.PID()) - broker).Microseconds()) / n
			return out, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("bench%d", i+1)
	}
	return all
}

// command is the program that drains the queues.
func (b *bench) command(r row, queues []string) *exec.Cmd {
	var cmd *exec.Cmd
	switch r.worker {
	case "warren":
		cmd = exec.Command(filepath.Join(b.bin, "warren"), "run")
	case "other":
		cmd = exec.Command(b.other, "run")
	default:
		cmd = exec.Command(filepath.Join(b.bin, "peers"), r.worker)
	}
	cmd.Dir = b.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir,
		fmt.Sprintf("BENCH_MESSAGES=%d", r.messages),
		"BENCH_URL=" + b.node.URL("/"), "BENCH_QUEUE=" + queues[0],
		"WARREN_AMQP_URL=" + b.node.URL("/"), "WARREN_QUEUES=" + strings.Join(queues, ","), "WARREN_LOG_LEVEL=error", "WARREN_ADMIN_ADDR=127.0.0.1:0",
		"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_EXPORTER_OTLP_ENDPOINT=" + b.collector, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
	}
	if r.pace > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("BENCH_LATENCIES=%d", r.messages-r.messages/10))
	}
	for _, v := range append([]string{"WARREN_QUEUE_*_PROCESSOR=bench"}, r.env...) {
		if !strings.Contains(v, "_*_") {
			cmd.Env = append(cmd.Env, v)
			continue
		}
		for _, q := range queues {
			cmd.Env = append(cmd.Env, strings.Replace(v, "*", strings.ToUpper(q), 1))
		}
	}
	if stderr, err := os.Create(filepath.Join(b.dir, "stderr")); err == nil {
		cmd.Stderr = stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// publish publishes the messages of a row, to all of its queues by turns, and returns when
// they are confirmed.
func publish(ch *amqp.Channel, r row, queues []string) error {
	const ahead = 2000 // unconfirmed
	m := count.Message{Text: strings.Repeat("x", max(0, r.body-50))}
	var confirms []*amqp.DeferredConfirmation
	start := time.Now()
	for i := range r.messages {
		if r.pace > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(r.pace))))
		}
		m.ID, m.Sent = i, time.Now().UnixNano()
		body, err := json.Marshal(m)
		if err != nil {
			return err
		}
		confirm, err := ch.PublishWithDeferredConfirm("", queues[i%len(queues)], false, false, amqp.Publishing{
			Body: body, DeliveryMode: amqp.Persistent, ContentType: "application/json", MessageId: fmt.Sprint(i),
		})
		if err != nil {
			return err
		}
		if confirms = append(confirms, confirm); len(confirms) == ahead {
			if !confirms[0].Wait() {
				return errors.New("the broker refused a message")
			}
			confirms = confirms[1:]
		}
	}
	for _, confirm := range confirms {
		if !confirm.Wait() {
			return errors.New("the broker refused a message")
		}
	}
	return nil
}

// startAndStop measures how long Warren takes to consume a queue that is there, and to
// stop when it is idle.
func (b *bench) startAndStop() error {
	var starts, stops []float64
	for range 2*b.rounds + 1 {
		cmd := b.command(row{worker: "warren", env: []string{"WARREN_LOG_LEVEL=info", "WARREN_LOG_FORMAT=json"}}.of(b), names(1))
		cmd.Stderr = nil
		stderr, err := cmd.StderrPipe()
		if err != nil {
			return err
		}
		began := time.Now()
		if err := cmd.Start(); err != nil {
			return err
		}
		lines := bufio.NewScanner(stderr)
		for lines.Scan() && !strings.Contains(lines.Text(), `"msg":"consuming"`) {
		}
		starts = append(starts, float64(time.Since(began).Milliseconds()))
		time.Sleep(time.Second)
		began = time.Now()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, stderr)
		if err := cmd.Wait(); err != nil {
			return err
		}
		stops = append(stops, float64(time.Since(began).Microseconds())/1000)
	}
	// The first has declared the queue.
	fmt.Printf("\nFrom start to consuming a queue that is there: %.0f ms; to stop when idle: %.0f ms.\n", median(starts[1:]), median(stops[1:]))
	return nil
}

// used is the processor time of a process and of its children that have ended; see proc(5).
func used(pid int) (sum time.Duration) {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// The second field is a name that may have any character in it, in brackets.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, i := range []int{14, 15, 16, 17} {
		if i-3 < len(fields) {
			var ticks int64
			_, _ = fmt.Sscan(fields[i-3], &ticks)
			sum += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return sum
}
