package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

// Exit statuses.
const (
	green  = 0
	broken = 1
	void   = 2 // nothing was shown
	unread = 3
)

func main() {
	minimum := flag.Float64("minimum", 100, "messages a second that were done before the first fault, or the run is void")
	flag.Parse()
	os.Exit(run(*minimum, flag.Args(), os.Stdout))
}

func run(minimum float64, names []string, out io.Writer) int {
	var ledgers []io.Reader
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			fmt.Fprintln(out, "checker:", err)
			return unread
		}
		defer f.Close() //nolint:errcheck // it was only read
		ledgers = append(ledgers, f)
	}
	events, err := read(ledgers...)
	if err != nil {
		fmt.Fprintln(out, "checker:", err)
		return unread
	}
	v := judge(events, minimum)
	v.print(out)
	switch {
	case len(v.violations) > 0:
		return broken
	case v.void != "":
		return void
	}
	return green
}
