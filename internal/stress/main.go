// Command stress runs the tests of packages many times under the race detector, on a
// machine that it keeps busy, and prints which of them failed how often. It exits with 1
// if any did. make stress runs it.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// busyArgument has the program be one of its own busy processes.
const busyArgument = "busy"

func main() {
	if len(os.Args) == 2 && os.Args[1] == busyArgument {
		beBusy(os.Stdin)
		return
	}
	count := flag.Int("count", 5, "how many times each test runs")
	jobs := flag.Int("jobs", 4, "how many packages, or runs of one, are tested side by side")
	busy := flag.Int("busy", 2, "how many processes keep the machine busy meanwhile")
	run := flag.String("run", "", "only the tests that match, as for go test")
	goCommand := flag.String("go", "go", "the go command")
	flag.Parse()
	failed, err := stress(*goCommand, *count, *jobs, *busy, *run, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "stress:", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

// beBusy keeps one processor busy until whoever started it has ended, however.
func beBusy(parent io.Reader) {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, parent)
		close(ended)
	}()
	for n := 0; ; n++ {
		if n%1_000_000 != 0 {
			continue
		}
		select {
		case <-ended:
			return
		default:
		}
	}
}

// stress runs the tests of each package count times, each time as a process of its own,
// which starts its own broker; jobs of them run side by side, since tests mostly wait.
func stress(goCommand string, count, jobs, busy int, run string, patterns []string) (failed bool, err error) {
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	packages, err := list(goCommand, patterns)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "stress-")
	if err != nil {
		return false, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, p := range packages {
		// Built first, so that the busy processes slow the tests alone.
		build := exec.Command(goCommand, "test", "-race", "-c", "-o", p.binary(dir), p.path)
		if out, err := build.CombinedOutput(); err != nil {
			return false, fmt.Errorf("build the tests of %s: %w\n%s", p.path, err, out)
		}
	}
	idle, err := keepBusy(busy)
	if err != nil {
		return false, err
	}
	defer idle()

	type result struct {
		*report
		error
	}
	results, free := make(chan result), make(chan struct{}, jobs)
	go func() {
		for range count {
			for _, p := range packages {
				free <- struct{}{}
				go func() {
					defer func() { <-free }()
					args := []string{"tool", "test2json", "-t", "-p", p.path, p.binary(dir), "-test.v=test2json", "-test.paniconexit0", "-test.timeout=1h", "-test.run=" + run}
					test := exec.Command(goCommand, args...)
					test.Dir = p.dir
					r, err := runOf(test, p.path)
					results <- result{r, err}
				}()
			}
		}
	}()
	reports := make(map[string]*report)
	for range count * len(packages) {
		r := <-results
		if r.error != nil {
			err = errors.Join(err, fmt.Errorf("test %s: %w", r.name, r.error))
		}
		r.print(os.Stdout)
		if r.failed() {
			r.printFailures(os.Stdout) // also at the end, which may be an hour away
		}
		if all := reports[r.name]; all != nil {
			all.merge(r.report)
		} else {
			reports[r.name] = r.report
		}
	}
	fmt.Println()
	for _, p := range packages {
		if r := reports[p.path]; r.failed() {
			failed = true
			r.printFailures(os.Stdout)
		}
	}
	if !failed {
		fmt.Printf("No test of %d packages failed in %d runs each, %d side by side, with %d busy processes beside them.\n", len(packages), count, jobs, busy)
	}
	return failed, err
}

// A tested package has tests, and is in the folder dir.
type tested struct{ path, dir string }

// binary is the program of its tests below dir, with the name that go test gives it.
func (t tested) binary(dir string) string {
	return filepath.Join(dir, t.path, path.Base(t.path)+".test")
}

// list returns the packages that have tests.
func list(goCommand string, patterns []string) ([]tested, error) {
	args := append([]string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}"}, patterns...)
	var stderr bytes.Buffer
	command := exec.Command(goCommand, args...)
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	var packages []tested
	for line := range strings.Lines(string(out)) {
		if path, dir, found := strings.Cut(strings.TrimSpace(line), " "); found {
			packages = append(packages, tested{path, dir})
		}
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("none of %s has tests", strings.Join(patterns, " "))
	}
	return packages, nil
}

// keepBusy starts n busy processes; idle ends them, and returns when they have ended.
func keepBusy(n int) (idle func(), err error) {
	var ends []func()
	idle = func() {
		for _, end := range ends {
			end()
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for range n {
		process := exec.Command(self, busyArgument)
		stdin, err := process.StdinPipe()
		if err == nil {
			err = process.Start()
		}
		if err != nil {
			idle()
			return nil, err
		}
		ends = append(ends, func() {
			_ = stdin.Close()
			_ = process.Wait()
		})
	}
	return idle, nil
}

// runOf runs the test of a package once.
func runOf(test *exec.Cmd, name string) (*report, error) {
	r := newReport(name)
	test.Stderr = os.Stderr
	stdout, err := test.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := test.Start(); err != nil {
		return r, err
	}
	readErr := r.read(stdout)
	err = test.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		err = nil // the report has it
	}
	return r, errors.Join(readErr, err)
}
