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
	"strings"
	"time"
)

// busyArgument has the program be one of its own busy processes.
const busyArgument = "busy"

func main() {
	if len(os.Args) == 2 && os.Args[1] == busyArgument {
		beBusy(os.Stdin)
		return
	}
	count := flag.Int("count", 5, "how many times each test runs")
	busy := flag.Int("busy", 4, "how many processes keep the machine busy meanwhile")
	run := flag.String("run", "", "only the tests that match, as for go test")
	goCommand := flag.String("go", "go", "the go command")
	flag.Parse()
	failed, err := stress(*goCommand, *count, *busy, *run, flag.Args())
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

// stress tests the packages one after the other, since some tests measure time.
func stress(goCommand string, count, busy int, run string, patterns []string) (failed bool, err error) {
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	packages, err := list(goCommand, patterns)
	if err != nil {
		return false, err
	}
	var reports []*report
	for _, p := range packages {
		// Built first, so that the busy processes slow the tests alone.
		build := exec.Command(goCommand, "test", "-race", "-exec", "true", p)
		if out, err := build.CombinedOutput(); err != nil {
			return false, fmt.Errorf("build the tests of %s: %w\n%s", p, err, out)
		}
		args := []string{"test", "-race", "-json", "-count", fmt.Sprint(count), "-timeout", (time.Duration(count) * 20 * time.Minute).String()}
		if run != "" {
			args = append(args, "-run", run)
		}
		test := exec.Command(goCommand, append(args, p)...)
		r, err := besideBusy(busy, test, p)
		if err != nil {
			return true, fmt.Errorf("test %s: %w", p, err)
		}
		r.print(os.Stdout)
		reports = append(reports, r)
	}
	fmt.Println()
	for _, r := range reports {
		if r.failed() {
			failed = true
			r.printFailures(os.Stdout)
		}
	}
	if !failed {
		fmt.Printf("No test of %d packages failed in %d runs each, with %d busy processes beside it.\n", len(reports), count, busy)
	}
	return failed, nil
}

// list returns the packages that have tests.
func list(goCommand string, patterns []string) ([]string, error) {
	args := append([]string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}"}, patterns...)
	var stderr bytes.Buffer
	command := exec.Command(goCommand, args...)
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	packages := strings.Fields(string(out))
	if len(packages) == 0 {
		return nil, fmt.Errorf("none of %s has tests", strings.Join(patterns, " "))
	}
	return packages, nil
}

// besideBusy runs the test of a package with busy processes beside it, all of which
// have ended when it returns.
func besideBusy(busy int, test *exec.Cmd, name string) (r *report, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for range busy {
		process := exec.Command(self, busyArgument)
		stdin, err := process.StdinPipe()
		if err != nil {
			return nil, err
		}
		if err := process.Start(); err != nil {
			return nil, err
		}
		defer func() {
			_ = stdin.Close()
			_ = process.Wait()
		}()
	}
	test.Stderr = os.Stderr
	stdout, err := test.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := test.Start(); err != nil {
		return nil, err
	}
	r, readErr := read(stdout, name)
	err = test.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		err = nil // the report has it
	}
	return r, errors.Join(readErr, err)
}
