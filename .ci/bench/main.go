// Command bench measures Warren beside what people write by hand and other libraries, on
// one private node: make bench runs it. What is measured is a process of its own, which
// counts for itself; in each round every row of a table is run once, in turn, so that all
// have met the same machine. It prints medians.
package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/warrenmq/warren/internal/rabbittest"
)

func main() {
	log.SetFlags(0)
	b := &bench{}
	flag.StringVar(&b.bin, "bin", "bin", "folder of the programs peers and warren")
	flag.IntVar(&b.rounds, "rounds", 5, "how often everything is measured")
	flag.IntVar(&b.messages, "messages", 60_000, "how many messages a row gets, where it says nothing else")
	flag.StringVar(&b.other, "other", "", "another build of the program warren, to measure beside")
	all := flag.Bool("all", false, "measure everything, not only the main table")
	only := flag.String("only", "", "only the tables whose title matches this")
	flag.Parse()
	if err := b.run(*all, regexp.MustCompile(*only)); err != nil {
		log.Fatalln("bench:", err)
	}
}

type bench struct {
	bin, other       string
	rounds, messages int
	dir              string
	node             *rabbittest.Node
	collector        string
}

func (b *bench) run(all bool, only *regexp.Regexp) (err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.node, err = rabbittest.Start(context.Background(), rabbittest.Options{Dir: filepath.Join(b.dir, "node")}); err != nil {
		return err
	}
	defer b.node.Kill()
	// A collector that takes spans and, like one that hands them on to another machine,
	// keeps none.
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = new(bytes.Buffer).ReadFrom(r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer collector.Close()
	b.collector = collector.URL

	fmt.Printf("%s\n", b.machine())
	if err := b.drain(row{worker: "loop"}.of(b)); err != nil { // warms the node up
		return err
	}
	for _, t := range b.tables() {
		if !all && !t.quick || !only.MatchString(t.title) {
			continue
		}
		if err := t.measure(b); err != nil {
			return err
		}
	}
	if all && only.MatchString("Start and stop") {
		return b.startAndStop()
	}
	return nil
}

// machine describes where it is measured.
func (b *bench) machine() string {
	field := func(file, name string) string {
		text, _ := os.ReadFile(file)
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			if before, after, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(before) == name {
				return strings.TrimSpace(after)
			}
		}
		return "?"
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf("%d cores (%s), %s of memory, Linux %s, %s, RabbitMQ %s on the same machine; load before: %s",
		runtime.NumCPU(), field("/proc/cpuinfo", "model name"), field("/proc/meminfo", "MemTotal"),
		bytes.TrimSpace(kernel), runtime.Version(), b.node.Version(), strings.Join(strings.Fields(string(load))[:3], " "))
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
