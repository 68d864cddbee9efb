// Package count is in every program that is measured: it counts messages, and prints what
// they have cost when the last has come.
package count

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A Message is what the bench publishes.
type Message struct {
	ID   int    `json:"id"`
	Sent int64  `json:"sent"` // Unix nanoseconds
	Text string `json:"text"`
}

// A Report is what a program prints at the end, as a line of JSON. The first tenth of the
// messages warms it up and is not measured.
type Report struct {
	Rate    float64                  `json:"rate"`   // messages a second
	CPU     float64                  `json:"cpu"`    // microseconds a message
	Memory  int64                    `json:"memory"` // peak, resident, bytes
	Latency map[string]time.Duration `json:"latency,omitempty"`
}

// Begun is the line that a program prints when it begins to measure.
const Begun = "begun"

var (
	total     = number("BENCH_MESSAGES")
	warm      = total / 10
	latencies = make([]time.Duration, number("BENCH_LATENCIES"))
	seen      atomic.Int64
	began     time.Time
	used      time.Duration
	finish    = make(chan struct{})
)

func number(name string) int64 {
	n, _ := strconv.ParseInt(os.Getenv(name), 10, 64)
	return n
}

// Done counts one message. Any number of goroutines may call it.
func Done(m Message) {
	n := seen.Add(1)
	if i := n - warm - 1; i >= 0 && i < int64(len(latencies)) { // before, some wait for the program to start
		latencies[i] = time.Duration(time.Now().UnixNano() - m.Sent)
	}
	switch n {
	case warm:
		began, used = time.Now(), cpu()
		fmt.Println(Begun)
	case total:
		close(finish)
	}
}

// Print waits for the last message and prints the Report. It is to run from the start on.
func Print() {
	<-finish
	n, took, cost := float64(total-warm), time.Since(began), cpu()-used
	r := Report{Rate: n / took.Seconds(), CPU: float64(cost.Microseconds()) / n, Memory: peak()}
	if l := slices.Clone(latencies); len(l) > 0 {
		slices.Sort(l)
		at := func(q float64) time.Duration { return l[int(q*float64(len(l)-1))] }
		r.Latency = map[string]time.Duration{"p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999)}
	}
	line, _ := json.Marshal(r)
	fmt.Println(string(line))
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peak is the most memory that the process has had, resident.
func peak() int64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	_, _ = fmt.Sscan(after, &kib)
	return kib << 10
}
