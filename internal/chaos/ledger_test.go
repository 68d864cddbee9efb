//go:build chaos

package chaos

import (
	"bufio"
	"encoding/json"
	"os"
	"sync"
	"testing"
	"time"
)

// An event is a line of a ledger; package checker says what each means.
type event struct {
	At      int64  `json:"at"`
	Event   string `json:"event"`
	Queue   string `json:"queue,omitempty"`
	ID      string `json:"id,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	Worker  string `json:"worker,omitempty"`
	Fate    string `json:"fate,omitempty"`
	Waits   bool   `json:"waits,omitempty"`
	Exact   bool   `json:"exact,omitempty"`
	Kind    string `json:"kind,omitempty"`
	Until   int64  `json:"until,omitempty"`
	Every   int64  `json:"every,omitempty"`
	Count   int    `json:"count,omitempty"`

	Ready     int `json:"ready,omitempty"`
	Unacked   int `json:"unacked,omitempty"`
	Consumers int `json:"consumers,omitempty"`
	Wanted    int `json:"wanted,omitempty"`

	Before int64 `json:"before,omitempty"`
	After  int64 `json:"after,omitempty"`
}

// A ledger may be written by any number of goroutines.
type ledger struct {
	mu   sync.Mutex
	file *os.File
	buf  *bufio.Writer
}

func newLedger(t *testing.T, name string) *ledger {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return &ledger{file: f, buf: bufio.NewWriterSize(f, 64<<10)}
}

// write writes an event; it happens now unless it says when.
func (l *ledger) write(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.At == 0 {
		e.At = time.Now().UnixMicro()
	}
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // of numbers and strings
	}
	_, _ = l.buf.Write(append(line, '\n')) // the error comes up when it is closed
}

func (l *ledger) close(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.buf.Flush(); err != nil {
		t.Errorf("write the ledger: %v", err)
	}
	_ = l.file.Close()
}
