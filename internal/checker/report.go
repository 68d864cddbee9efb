package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxShown is how many violations are printed.
const maxShown = 50

// print writes what was found, and the verdict last.
func (j *judgement) print(out io.Writer) {
	kinds := make(map[string]int)
	for _, f := range j.faults {
		kinds[f.Kind]++
	}
	fmt.Fprintf(out, "%d faults of %d kinds:\n", len(j.faults), len(kinds))
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(out, "  %5d  %s\n", kinds[kind], kind)
	}
	fmt.Fprintf(out, "published %d, confirmed %d, done %d, dead %d, deleted by a fault %d, lost %d\n", j.published, j.confirmed, j.done, j.dead, j.deleted, j.lost)
	fmt.Fprintf(out, "fired by schedules %d, relayed from the outbox %d\n", j.fired, j.relayed)
	fmt.Fprintf(out, "repeated:\n")
	for _, cause := range slices.Sorted(maps.Keys(j.repeats)) {
		fmt.Fprintf(out, "  %5d  %s\n", j.repeats[cause], cause)
	}
	for i, v := range j.violations {
		if i == maxShown {
			fmt.Fprintf(out, "... and %d more\n", len(j.violations)-maxShown)
			break
		}
		fmt.Fprintln(out, "VIOLATION", v)
	}
	switch {
	case len(j.violations) > 0:
		fmt.Fprintf(out, "verdict: broken, %d violations\n", len(j.violations))
	case j.void != "":
		fmt.Fprintf(out, "verdict: void, %s\n", j.void)
	default:
		fmt.Fprintln(out, "verdict: green")
	}
}

// around are the faults from a while before one moment to another.
func (j *judgement) around(from, to int64) string {
	var all []string
	for _, f := range j.faults {
		if f.At <= to && f.Until >= from-slack {
			all = append(all, strings.TrimSpace(f.Kind+" "+f.Worker)+" "+clock(f.At)+" to "+clock(f.Until))
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

func (a *attempt) String() string {
	end := "never ended"
	switch {
	case a.failed:
		end = "failed " + clock(a.ended)
	case a.ended != 0:
		end = "done " + clock(a.ended)
	}
	return fmt.Sprintf("%d by worker %s, begun %s, %s", a.number, a.worker, clock(a.begun), end)
}

func clock(at int64) string { return time.UnixMicro(at).UTC().Format("15:04:05.000") }
