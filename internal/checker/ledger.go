package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// An event is a line of a ledger.
type event struct {
	At      int64  `json:"at"`
	Event   string `json:"event"`
	Queue   string `json:"queue"`
	ID      string `json:"id"`
	Attempt int    `json:"attempt"`
	Worker  string `json:"worker"`
	Fate    string `json:"fate"`
	Waits   bool   `json:"waits"`
	Exact   bool   `json:"exact"`
	Kind    string `json:"kind"`
	Until   int64  `json:"until"`
	Every   int64  `json:"every"`
	Count   int    `json:"count"`

	Ready     int `json:"ready"`
	Unacked   int `json:"unacked"`
	Consumers int `json:"consumers"`
	Wanted    int `json:"wanted"`

	Before int64 `json:"before"`
	After  int64 `json:"after"`
}

// read returns the events of ledgers, in their order.
func read(ledgers ...io.Reader) ([]event, error) {
	var events []event
	for i, ledger := range ledgers {
		lines := bufio.NewScanner(ledger)
		lines.Buffer(nil, 1<<20)
		for n := 1; lines.Scan(); n++ {
			d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
			d.DisallowUnknownFields()
			var e event
			if err := d.Decode(&e); err != nil {
				return nil, fmt.Errorf("line %d of ledger %d: %w: %.200s", n, i+1, err, lines.Bytes())
			}
			events = append(events, e)
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("ledger %d: %w", i+1, err)
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return int(a.At - b.At) })
	return events, nil
}
