package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// An event is a line of go test -json; see go doc test2json.
type event struct {
	Action  string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

// A report is what became of the tests of one package.
type report struct {
	name    string
	elapsed time.Duration
	passed  bool             // the package as a whole
	tests   map[string]*runs // by name
	output  []string         // of no test
}

// runs are those of one test.
type runs struct {
	all, failed int
	output      []string // of the run that goes on
	first       []string // of the first that failed
	inner       bool     // in the run that goes on a subtest has failed
	running     bool
}

func newReport(name string) *report { return &report{name: name, tests: make(map[string]*runs)} }

// read reads what go test -json writes, until its end.
func (r *report) read(events io.Reader) error {
	decoder := json.NewDecoder(events)
	for {
		var e event
		switch err := decoder.Decode(&e); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			_, _ = io.Copy(io.Discard, events) // or go test would wait for a reader
			return fmt.Errorf("read the output of go test: %w", err)
		}
		r.add(e)
	}
}

func (r *report) add(e event) {
	if e.Test == "" {
		switch e.Action {
		case "output":
			r.output = append(r.output, e.Output)
		case "pass", "fail", "skip":
			r.passed = e.Action != "fail"
			r.elapsed = time.Duration(e.Elapsed * float64(time.Second))
			for _, name := range slices.Backward(slices.Sorted(maps.Keys(r.tests))) { // subtests first
				if r.tests[name].running { // it has ended the process
					r.add(event{Action: "fail", Test: name})
				}
			}
		}
		return
	}
	t := r.test(e.Test)
	switch e.Action {
	case "run":
		t.output, t.inner, t.running = nil, false, true
	case "output":
		t.output = append(t.output, e.Output)
	case "pass", "skip":
		t.all++
		t.running = false
	case "fail":
		t.all++
		t.running = false
		if outer := strings.LastIndexByte(e.Test, '/'); outer >= 0 {
			r.test(e.Test[:outer]).inner = true
		}
		if t.inner {
			return // it failed because the subtest did
		}
		t.failed++
		if t.first == nil {
			t.first = t.output
		}
	}
}

func (r *report) test(name string) *runs {
	t := r.tests[name]
	if t == nil {
		t = new(runs)
		r.tests[name] = t
	}
	return t
}

// merge adds a later run of the package.
func (r *report) merge(later *report) {
	r.passed = r.passed && later.passed
	if r.output == nil || !later.passed {
		r.output = later.output
	}
	for name, l := range later.tests {
		t := r.test(name)
		t.all += l.all
		t.failed += l.failed
		if t.first == nil {
			t.first = l.first
		}
	}
}

// failed tells whether a test failed, or the package without one.
func (r *report) failed() bool { return !r.passed }

// print writes a line as go test does.
func (r *report) print(w io.Writer) {
	state := "ok  "
	if r.failed() {
		state = "FAIL"
	}
	fmt.Fprintf(w, "%s  %s  %.1fs\n", state, r.name, r.elapsed.Seconds())
}

// printFailures writes which tests failed how often, and what the first failure of
// each printed.
func (r *report) printFailures(w io.Writer) {
	none := true
	for _, name := range slices.Sorted(maps.Keys(r.tests)) {
		t := r.tests[name]
		if t.failed == 0 {
			continue
		}
		none = false
		fmt.Fprintf(w, "%s %s failed in %d of %d runs; the first:\n", r.name, name, t.failed, t.all)
		writeIndented(w, t.first)
	}
	if none {
		fmt.Fprintf(w, "%s failed, but none of its tests:\n", r.name)
		writeIndented(w, r.output)
	}
}

// writeIndented writes the first lines of the output, which say what was wrong, and the
// last ones, which say where it ended.
func writeIndented(w io.Writer, output []string) {
	lines := strings.Split(strings.TrimRight(strings.Join(output, ""), "\n"), "\n")
	const first, last = 20, 40
	for i, line := range lines {
		switch {
		case i < first || i >= len(lines)-last:
			fmt.Fprintf(w, "    %s\n", line)
		case i == first:
			fmt.Fprintf(w, "    ... %d lines more\n", len(lines)-first-last)
		}
	}
}
