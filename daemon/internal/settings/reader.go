package settings

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// prefix begins the name of every variable.
const prefix = "WARREN_"

// A reader reads variables into structs. It keeps every fault that it comes upon, so
// that an operator sees them all at once, and every name that it was asked for, so that
// what is left over can be called unknown.
type reader struct {
	owners map[string]string // of each known name: "queue emails", ...
	vars   []Variable        // all that were read, in that order
	faults []error
}

func newReader() *reader { return &reader{owners: make(map[string]string)} }

// know makes the names of the variables of settings known as the owner's. It
// reports false, and a fault, if somebody else has one of them.
func (r *reader) know(owner, prefix string, settings any) bool {
	for _, v := range variables(prefix, settings) {
		for _, name := range []string{v.Name, v.Name + "_FILE"} {
			if other := r.owners[name]; other != "" && other != owner {
				r.faultf("%s and %s would share the variable %s; rename one of them", other, owner, name)
				return false
			}
			r.owners[name] = owner
		}
	}
	return true
}

// read fills the struct that settings points to. A field whose variable is faulty
// is left zero, and read reports false.
func (r *reader) read(prefix string, settings any) bool {
	ok := true
	vars := variables(prefix, settings)
	r.vars = append(r.vars, vars...)
	for _, v := range vars {
		if err := v.read(); err != nil {
			v.field.SetZero()
			r.fault(err)
			ok = false
		}
	}
	return ok
}

// digest tells the variables that were read for the owner, but for secrets, from other
// values of the same ones.
func (r *reader) digest(owner string) string {
	h := sha256.New()
	for _, v := range r.vars {
		if text, _, err := v.lookup(); err == nil && r.owners[v.Name] == owner && !v.is("secret") {
			fmt.Fprintf(h, "%s=%q\n", v.Name, masked(text))
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:4])
}

// changed are the variables that were read for the owner and are not as they are by default.
func (r *reader) changed(owner string) (all []string) {
	for _, v := range r.vars {
		text, _, err := v.lookup()
		if err != nil || r.owners[v.Name] != owner || text == v.Default {
			continue
		}
		if text = masked(text); v.is("secret") {
			text = "******"
		}
		all = append(all, v.Name+"="+text)
	}
	return all
}

// refuseUnknown reports each variable with the prefix that nobody asked for. Those whose
// names begin as one of except does are left alone.
func (r *reader) refuseUnknown(except ...string) {
	for _, entry := range slices.Sorted(slices.Values(os.Environ())) {
		name, _, _ := strings.Cut(entry, "=")
		excepted := slices.ContainsFunc(except, func(begin string) bool { return strings.HasPrefix(name, begin) })
		if strings.HasPrefix(name, prefix) && r.owners[name] == "" && !excepted {
			r.faultf("%s is unknown; the nearest known name is %s", name, r.nearest(name))
		}
	}
}

// nearest is the known name that takes the fewest edits to get to.
func (r *reader) nearest(name string) string {
	return slices.MinFunc(slices.Sorted(maps.Keys(r.owners)), func(a, b string) int {
		return cmp.Compare(levenshtein.ComputeDistance(name, a), levenshtein.ComputeDistance(name, b))
	})
}

func (r *reader) faultf(format string, args ...any) {
	r.fault(fmt.Errorf(format, args...))
}

// fault keeps err, each of several joined ones as a fault of its own.
func (r *reader) fault(err error) {
	if err != nil {
		r.faults = append(r.faults, each(err)...)
	}
}

// each returns the errors that [errors.Join] has made err of, or err alone.
func each(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	parts := joined.Unwrap()
	// An error that wraps several with a text of its own has that method, too.
	if err.Error() != errors.Join(parts...).Error() {
		return []error{err}
	}
	var all []error
	for _, part := range parts {
		all = append(all, each(part)...)
	}
	return all
}

// err returns all faults, a line each, or nil.
func (r *reader) err() error {
	switch len(r.faults) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("configuration: %w", r.faults[0])
	}
	return &faultsError{r.faults}
}

// A faultsError is several faults of the configuration.
type faultsError struct{ faults []error }

func (e *faultsError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the configuration has %d faults:", len(e.faults))
	for _, f := range e.faults {
		b.WriteString("\n  " + strings.ReplaceAll(f.Error(), "\n", "\n    "))
	}
	return b.String()
}

func (e *faultsError) Unwrap() []error { return e.faults }
