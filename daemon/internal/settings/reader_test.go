package settings

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/processors"
)

// setenv gives the test these variables of Warren and no others.
func setenv(t *testing.T, entries ...string) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, prefix) {
			t.Setenv(name, "") // put back after the test
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, entry := range entries {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
}

// standard are the processors that come with Warren, and program is it.
var (
	standard = processors.Standard()
	program  = Program{Name: "warren", Version: "v1.2.3", Processors: standard}
)

type someSettings struct {
	User  string        `envconfig:"USER" default:"nobody"`
	Wait  time.Duration `envconfig:"WAIT" default:"1s" positive:"true"`
	Token string        `envconfig:"TOKEN" secret:"true"`
	Count int           `envconfig:"COUNT" secret:"true"`
}

func TestVariableWithoutPrefixIsNotTaken(t *testing.T) {
	setenv(t, "USER=root", "QUEUE_A_USER=root")
	var s someSettings
	if r := newReader(); !r.read("WARREN_QUEUE_A_", &s) {
		t.Fatal(r.err())
	}
	if s.User != "nobody" {
		t.Errorf("USER and QUEUE_A_USER are set to root, WARREN_QUEUE_A_USER is not: got %q, want the default, nobody", s.User)
	}
}

func TestSourcesOfAVariable(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file("warren_x_token", "credential\n")
	file("warren_x_wait", "3s\n")
	awkward := "a \"b\" \\c\t`ö`\n\nend"

	for _, test := range []struct {
		name  string
		env   []string
		want  someSettings
		fault string // a part of it
	}{
		{name: "the default", want: someSettings{User: "nobody", Wait: time.Second}},
		{
			name: "the variable",
			env:  []string{"WARREN_X_TOKEN=secret", "WARREN_X_USER="},
			want: someSettings{Token: "secret", Wait: time.Second},
		},
		{
			name: "a file, without its last newline",
			env:  []string{"WARREN_X_TOKEN_FILE=" + file("token", awkward+"\n"), "WARREN_X_WAIT_FILE=" + file("wait", "7s\r\n")},
			want: someSettings{User: "nobody", Token: awkward, Wait: 7 * time.Second},
		},
		{
			name: "a credential",
			env:  []string{"CREDENTIALS_DIRECTORY=" + dir},
			want: someSettings{User: "nobody", Token: "credential", Wait: 3 * time.Second},
		},
		{
			name: "the variable before the credential",
			env:  []string{"CREDENTIALS_DIRECTORY=" + dir, "WARREN_X_TOKEN=variable", "WARREN_X_WAIT=9s"},
			want: someSettings{User: "nobody", Token: "variable", Wait: 9 * time.Second},
		},
		{
			name: "the file before the credential",
			env:  []string{"CREDENTIALS_DIRECTORY=" + dir, "WARREN_X_TOKEN_FILE=" + file("other", "file")},
			want: someSettings{User: "nobody", Token: "file", Wait: 3 * time.Second},
		},
		{
			name:  "both the variable and a file",
			env:   []string{"WARREN_X_USER=a", "WARREN_X_USER_FILE=" + file("user", "b")},
			fault: "WARREN_X_USER and WARREN_X_USER_FILE are both set",
		},
		{
			name:  "a file that is not there",
			env:   []string{"WARREN_X_USER_FILE=" + filepath.Join(dir, "absent")},
			fault: "WARREN_X_USER_FILE: open " + filepath.Join(dir, "absent"),
		},
		{
			name:  "a credential that cannot be read",
			env:   []string{"CREDENTIALS_DIRECTORY=" + file("no-folder", "")},
			fault: "WARREN_X_USER, given as a systemd credential: open " + filepath.Join(dir, "no-folder", "warren_x_user"),
		},
		{
			name:  "an empty file",
			env:   []string{"WARREN_X_USER_FILE=" + file("empty", "\n")},
			fault: "WARREN_X_USER_FILE: the file " + filepath.Join(dir, "empty") + " is empty",
		},
		{name: "zero", env: []string{"WARREN_X_WAIT=0s"}, fault: "WARREN_X_WAIT is 0s; it must be more than zero"},
		{name: "the wrong type", env: []string{"WARREN_X_WAIT=5"}, fault: `WARREN_X_WAIT is "5"; it must be a duration`},
		{name: "the wrong type of a secret", env: []string{"WARREN_X_COUNT=hunter2"}, fault: "WARREN_X_COUNT must be a whole number"},
	} {
		t.Run(test.name, func(t *testing.T) {
			setenv(t, test.env...)
			r := newReader()
			var got someSettings
			r.read("WARREN_X_", &got)
			if test.fault == "" {
				if got != test.want || r.err() != nil {
					t.Errorf("got %+v and the error %v, want %+v and none", got, r.err(), test.want)
				}
			} else if len(r.faults) == 0 || !strings.Contains(r.faults[0].Error(), test.fault) || strings.Contains(r.faults[0].Error(), "hunter2") {
				t.Errorf("got the faults %q, want one with %q and without the value of a secret", r.faults, test.fault)
			}
		})
	}
}

func TestUnknownVariables(t *testing.T) {
	setenv(t, "WARREN_X_WIAT=1s", "WARREN_X_TOKEN_FIEL=/x", "WARREN_X_USER=me", "WARRENTY=yes")
	r := newReader()
	r.know("x", "WARREN_X_", new(someSettings))
	r.refuseUnknown()
	want := []string{
		"WARREN_X_TOKEN_FIEL is unknown; the nearest known name is WARREN_X_TOKEN_FILE",
		"WARREN_X_WIAT is unknown; the nearest known name is WARREN_X_WAIT",
	}
	if !slices.EqualFunc(r.faults, want, func(err error, text string) bool { return err.Error() == text }) {
		t.Errorf("got the faults %q, want %q", r.faults, want)
	}
}

func TestNamesThatWouldBeShared(t *testing.T) {
	type file struct {
		File string `envconfig:"FILE"`
	}
	r := newReader()
	if !r.know("queue a", "WARREN_QUEUE_A_", new(someSettings)) || !r.know("queue a_wait", "WARREN_QUEUE_A_WAIT_", new(someSettings)) {
		t.Fatalf("got the faults %q, want none: no name is the same", r.faults)
	}
	if r.know("queue a_user", "WARREN_QUEUE_A_USER_", new(file)) {
		t.Error("WARREN_QUEUE_A_USER_FILE is the file of a's USER and a_user's FILE: want a fault")
	}
	if r.know("queue A.WAIT", "WARREN_QUEUE_A_WAIT_", new(someSettings)) {
		t.Error("a_wait and A.WAIT have the same prefix: want a fault")
	}
}

// Every processor's variables can be told from the queue's own, are explained, and
// are of types that a message about a faulty value can be made for.
func TestVariablesOfProcessors(t *testing.T) {
	for _, name := range standard.Names() {
		settings, _ := standard.Lookup(name)
		names := make(map[string]bool)
		for _, v := range slices.Concat(variables("", newQueueSettings(standard)), variables("", settings)) {
			if names[v.Name] || names[v.Name+"_FILE"] || names[strings.TrimSuffix(v.Name, "_FILE")] {
				t.Errorf("processor %s: the variable %s, or a file of that name, is there twice", name, v.Name)
			}
			names[v.Name] = true
			if v.Help == "" {
				t.Errorf("processor %s: %s has no desc tag", name, v.Name)
			}
			if v.Name != strings.ToUpper(v.Name) {
				t.Errorf("processor %s: the name %s is not in upper case", name, v.Name)
			}
			if v.is("positive") && !v.field.CanInt() && !v.field.CanFloat() {
				t.Errorf("processor %s: %s is positive, but no number", name, v.Name)
			}
		}
	}
}

func TestJoinedFaultsAreSeveral(t *testing.T) {
	one, two := errors.New("one"), fmt.Errorf("two (%w)", errors.New("lines\nof one"))
	both := fmt.Errorf("%w; see %w", one, two)
	r := newReader()
	r.fault(errors.Join(one, errors.Join(two, nil), both))
	if !slices.Equal(r.faults, []error{one, two, both}) {
		t.Errorf("got the faults %q, want one, two and both", r.faults)
	}
	want := "the configuration has 3 faults:\n  one\n  two (lines\n    of one)\n  one; see two (lines\n    of one)"
	if got := r.err(); got.Error() != want || !errors.Is(got, one) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Of a type that the message does not know, no value is shown, nor of any secret.
func TestUnreadableValues(t *testing.T) {
	type settings struct {
		Port  uint16  `envconfig:"PORT"`
		Ports []int   `envconfig:"PORTS" secret:"true"`
		Ratio float32 `envconfig:"RATIO"`
		Bytes int64   `envconfig:"BYTES" positive:"true"`
	}
	setenv(t, "WARREN_X_PORT=70000", "WARREN_X_PORTS=hunter2", "WARREN_X_RATIO=a", "WARREN_X_BYTES=x")
	r := newReader()
	r.read("WARREN_X_", new(settings))
	got := fmt.Sprint(r.err())
	for _, want := range []string{`WARREN_X_PORT is "70000"; it must be a whole number`, "WARREN_X_PORTS must be of the type []int", `WARREN_X_RATIO is "a"; it must be a number`, `WARREN_X_BYTES is "x"; it must be a whole number`} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s\nwant %q in it", got, want)
		}
	}
	if strings.Contains(got, "hunter2") {
		t.Errorf("the error shows a secret: %s", got)
	}
}
