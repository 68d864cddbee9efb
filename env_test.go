package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// setenv gives the test these variables of Warren and no others.
func setenv(t *testing.T, entries ...string) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, envPrefix) {
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

type someSettings struct {
	User  string        `envconfig:"USER" default:"nobody"`
	Wait  time.Duration `envconfig:"WAIT" default:"1s" positive:"true"`
	Token string        `envconfig:"TOKEN" secret:"true"`
	Count int           `envconfig:"COUNT" secret:"true"`
}

func TestVariableWithoutPrefixIsNotTaken(t *testing.T) {
	setenv(t, "USER=root", "QUEUE_A_USER=root")
	var s someSettings
	if env := newEnvironment(); !env.read("WARREN_QUEUE_A_", &s) {
		t.Fatal(env.err())
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
			env := newEnvironment()
			var got someSettings
			env.read("WARREN_X_", &got)
			if test.fault == "" {
				if got != test.want || env.err() != nil {
					t.Errorf("got %+v and the error %v, want %+v and none", got, env.err(), test.want)
				}
			} else if len(env.faults) == 0 || !strings.Contains(env.faults[0], test.fault) || strings.Contains(env.faults[0], "hunter2") {
				t.Errorf("got the faults %q, want one with %q and without the value of a secret", env.faults, test.fault)
			}
		})
	}
}

func TestUnknownVariables(t *testing.T) {
	setenv(t, "WARREN_X_WIAT=1s", "WARREN_X_TOKEN_FIEL=/x", "WARREN_X_USER=me", "WARRENTY=yes")
	env := newEnvironment()
	env.know("x", "WARREN_X_", new(someSettings))
	env.refuseUnknown()
	want := []string{
		"WARREN_X_TOKEN_FIEL is unknown; the nearest known name is WARREN_X_TOKEN_FILE",
		"WARREN_X_WIAT is unknown; the nearest known name is WARREN_X_WAIT",
	}
	if !slices.Equal(env.faults, want) {
		t.Errorf("got the faults %q, want %q", env.faults, want)
	}
}

func TestNamesThatWouldBeShared(t *testing.T) {
	type file struct {
		File string `envconfig:"FILE"`
	}
	env := newEnvironment()
	if !env.know("queue a", "WARREN_QUEUE_A_", new(someSettings)) || !env.know("queue a_wait", "WARREN_QUEUE_A_WAIT_", new(someSettings)) {
		t.Fatalf("got the faults %q, want none: no name is the same", env.faults)
	}
	if env.know("queue a_user", "WARREN_QUEUE_A_USER_", new(file)) {
		t.Error("WARREN_QUEUE_A_USER_FILE is the file of a's USER and a_user's FILE: want a fault")
	}
	if env.know("queue A.WAIT", "WARREN_QUEUE_A_WAIT_", new(someSettings)) {
		t.Error("a_wait and A.WAIT have the same prefix: want a fault")
	}
}

// Every processor's variables can be told from the queue's own, are explained, and
// are of types that a message about a faulty value can be made for.
func TestVariablesOfProcessors(t *testing.T) {
	for _, name := range standard.Names() {
		settings, _ := standard.Lookup(name)
		names := make(map[string]bool)
		for _, v := range slices.Concat(variables("", new(queueSettings)), variables("", settings)) {
			if names[v.name] || names[v.name+"_FILE"] || names[strings.TrimSuffix(v.name, "_FILE")] {
				t.Errorf("processor %s: the variable %s, or a file of that name, is there twice", name, v.name)
			}
			names[v.name] = true
			if v.tag.Get("desc") == "" {
				t.Errorf("processor %s: %s has no desc tag", name, v.name)
			}
			if v.name != strings.ToUpper(v.name) {
				t.Errorf("processor %s: the name %s is not in upper case", name, v.name)
			}
			if v.is("positive") && !v.field.CanInt() && !v.field.CanFloat() {
				t.Errorf("processor %s: %s is positive, but no number", name, v.name)
			}
		}
	}
}
