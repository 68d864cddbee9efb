// Command fleet measures what idle daemons cost the broker and themselves: connections,
// channels, what they send, processor time and memory. make bench-fleet runs it; its
// arguments are fleets, such as 30x20x10: daemons, queues of each, schedules of each.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

func main() {
	warren := flag.String("warren", "bin/warren", "the program")
	window := flag.Duration("for", time.Minute, "how long to measure")
	settle := flag.Duration("settle", 20*time.Second, "how long to wait before, after every queue is consumed")
	flag.Parse()
	if err := run(*warren, *settle, *window, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func run(warren string, settle, window time.Duration, fleets []string) error {
	if len(fleets) == 0 {
		return errors.New("no fleet to measure: name some, such as 30x20x10")
	}
	fmt.Printf("%s, idle, over %v:\n\n%s", warren, window, heading)
	for _, text := range fleets {
		var f fleet
		if _, err := fmt.Sscanf(text, "%dx%dx%d", &f.daemons, &f.queues, &f.schedules); err != nil || f.daemons < 1 || f.queues < 1 || f.schedules < 0 {
			return fmt.Errorf("%q is no fleet: want daemons, queues and schedules, such as 30x20x10", text)
		}
		cost, err := f.measure(warren, settle, window)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		fmt.Print(f.row(cost))
	}
	return nil
}

// A fleet is that many daemons, each with all of the queues and schedules.
type fleet struct{ daemons, queues, schedules int }

const heading = `| daemons | queues | schedules | connections | channels | packets/s to the broker | channels opened/s | broker CPU | a daemon's CPU | broker memory | a daemon's memory | all consumed after |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
`

func (f fleet) row(c cost) string {
	return fmt.Sprintf("| %d | %d | %d | %d | %d | %.1f | %.2f | %.1f %% | %.2f %% | %d MiB | %d MiB | %.1f s |\n",
		f.daemons, f.queues, f.schedules, c.connections, c.channels, c.packets, c.opened,
		100*c.brokerCPU, 100*c.daemonCPU, c.brokerMemory>>20, c.daemonMemory>>20, c.start.Seconds())
}

// cost is what a fleet costs; CPU is in processors, memory in bytes.
type cost struct {
	connections, channels      int
	packets, opened            float64 // a second
	brokerCPU, daemonCPU       float64
	brokerMemory, daemonMemory int64
	start                      time.Duration
}

// measure runs a node and the fleet, and ends both.
func (f fleet) measure(warren string, settle, window time.Duration) (c cost, err error) {
	dir, err := os.MkdirTemp("", "fleet-")
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx := context.Background()
	node, err := rabbittest.Start(ctx, rabbittest.Options{Dir: filepath.Join(dir, "node")})
	if err != nil {
		return c, err
	}
	defer node.Kill()

	began := time.Now()
	var daemons []*daemon
	defer func() {
		for _, d := range daemons {
			err = errors.Join(err, d.stop())
		}
	}()
	for i := range f.daemons {
		d, err := start(warren, dir, f.env(node.URL("/")), f.queues)
		if err != nil {
			return c, err
		}
		daemons = append(daemons, d)
		if i > 0 {
			continue
		}
		if err := d.await(); err != nil { // it declares what the others find
			return c, err
		}
	}
	for _, d := range daemons {
		if err := d.await(); err != nil {
			return c, err
		}
	}
	c.start = time.Since(began)
	<-time.After(settle)

	before, err := look(node, daemons)
	if err != nil {
		return c, err
	}
	<-time.After(window)
	after, err := look(node, daemons)
	if err != nil {
		return c, err
	}
	seconds := after.at.Sub(before.at).Seconds()
	c.connections, c.channels = after.connections, after.channels
	c.packets = float64(after.packets-before.packets) / seconds
	c.opened = float64(after.opened-before.opened) / seconds
	c.brokerCPU = (after.broker.cpu - before.broker.cpu).Seconds() / seconds
	c.daemonCPU = (after.daemons.cpu - before.daemons.cpu).Seconds() / seconds / float64(f.daemons)
	c.brokerMemory = after.broker.memory
	c.daemonMemory = after.daemons.memory / int64(f.daemons)
	return c, nil
}

func (f fleet) env(url string) []string {
	queues, schedules := names("queue", f.queues), names("schedule", f.schedules)
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"WARREN_AMQP_URL=" + url,
		"WARREN_ADMIN_ADDR=",
		"WARREN_LOG_FORMAT=json",
		"WARREN_QUEUES=" + strings.Join(queues, ","),
		"WARREN_SCHEDULES=" + strings.Join(schedules, ","),
	}
	for _, q := range queues {
		env = append(env, "WARREN_QUEUE_"+strings.ToUpper(q)+"_PROCESSOR=log")
	}
	for _, s := range schedules {
		prefix := "WARREN_SCHEDULE_" + strings.ToUpper(s) + "_"
		env = append(env, prefix+"CRON=@yearly", prefix+"QUEUE="+queues[0])
	}
	return env
}

func names(kind string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s%d", kind, i+1)
	}
	return all
}

// A daemon is one that runs.
type daemon struct {
	command *exec.Cmd
	consume chan error // one value: nil when it consumes every queue
	ended   chan struct{}
}

func start(warren, dir string, env []string, queues int) (*daemon, error) {
	command := exec.Command(warren, "run")
	command.Dir, command.Env = dir, env
	if !filepath.IsAbs(warren) {
		var err error
		if command.Path, err = filepath.Abs(warren); err != nil {
			return nil, err
		}
	}
	stderr, err := command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	d := &daemon{command: command, consume: make(chan error, 1), ended: make(chan struct{})}
	go func() {
		defer close(d.ended)
		var last string
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			last = lines.Text()
			if strings.Contains(last, `"msg":"consuming"`) {
				if queues--; queues == 0 {
					d.consume <- nil
				}
			}
		}
		_, _ = io.Copy(io.Discard, stderr) // of a line too long
		if queues > 0 {
			d.consume <- fmt.Errorf("a daemon has ended before it consumed its queues: %s", last)
		}
	}()
	return d, nil
}

func (d *daemon) await() error {
	select {
	case err := <-d.consume:
		d.consume <- err // for who asks again
		return err
	case <-time.After(5 * time.Minute):
		return errors.New("a daemon does not consume its queues within 5m")
	}
}

// stop ends the daemon, and fails if it was not running any more.
func (d *daemon) stop() error {
	_ = d.command.Process.Signal(syscall.SIGTERM)
	<-d.ended
	if err := d.command.Wait(); err != nil {
		return fmt.Errorf("a daemon: %w", err)
	}
	return nil
}
