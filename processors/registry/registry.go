// Package registry names processors. It says what one is made from, a [Config], and
// keeps several by their names, in a [Set].
package registry

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"

	"github.com/warrenmq/warren/consumer"
)

// A Config is what a processor is made from: a pointer to a struct whose exported fields
// are the variables of one queue. Their tags are
//
//	envconfig  the name, without the queue's prefix
//	default    what it is if not set
//	desc       one line of explanation
//	required   true if it must be set
//	positive   true if zero and less are faults
//	secret     true if no message may show its value
//	example    what config --example sets it to; a queue of a processor with a required
//	           variable that has neither this nor a default is not among its queues
type Config interface {
	// Validate returns every fault of the variables, joined, each with the name of its
	// variable and the remedy. It changes nothing and connects to nothing: what it may
	// do is read files.
	Validate(q Queue) error
	// Open makes the processor of the queue, with the folders, pools and clients that it
	// needs. It is called once, and only if Validate has found no fault. A processor that
	// is an [io.Closer] is closed by the caller, once none of its deliveries is processed.
	Open(q Queue, log *slog.Logger) (consumer.Processor, error)
}

// A Checker is a Config that can look whether what its processor depends on is there and
// lets it in.
type Checker interface {
	// Check returns what was found in words, or what is wrong, and after a semicolon the
	// remedy. It is called only if Validate has found no fault. It may connect, but
	// changes nothing anywhere. It blocks until it knows or ctx ends.
	Check(ctx context.Context, q Queue) (found string, err error)
}

// A Queue is what a processor has to know of its queue.
type Queue struct {
	Name        string
	Concurrency int    // how many deliveries are processed at once
	DatabaseURL string // of the daemon's database; empty: there is none
	// ReadDatabaseURL returns DatabaseURL as it is now, with another password say. Nil means
	// that it stays what it is.
	ReadDatabaseURL func() (string, error)
}

// A Set is processors by name. It never changes: With returns another one. The zero Set
// is empty.
type Set struct{ configs map[string]func() Config }

// With returns the Set with one processor more, or another one of that name. config
// returns a new, empty Config each time. With panics if that is no pointer to a struct.
func (s Set) With(name string, config func() Config) Set {
	if c := config(); c == nil || reflect.TypeOf(c).Kind() != reflect.Pointer || reflect.TypeOf(c).Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("processor %s: its Config is a %T, into which no variable can be read: make it a pointer to a struct", name, c))
	}
	configs := maps.Clone(s.configs)
	if configs == nil {
		configs = make(map[string]func() Config)
	}
	configs[name] = config
	return Set{configs}
}

// Lookup returns a new, empty Config of the processor of that name. It reports false if
// there is none.
func (s Set) Lookup(name string) (Config, bool) {
	empty, ok := s.configs[name]
	if !ok {
		return nil, false
	}
	return empty(), true
}

// Names returns the names of all processors, sorted.
func (s Set) Names() []string { return slices.Sorted(maps.Keys(s.configs)) }
