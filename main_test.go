package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// asProgram is the variable that has the test binary be the program itself.
const asProgram = "BE_WARREN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	rabbittest.Main(m)
}

// warren is the program, with these variables of Warren and no others.
func warren(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	// The race detector has each program wait for a second at its end, but for this.
	cmd.Env = append([]string{asProgram + "=1", "GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

// writeProgram writes a script that is run.
func writeProgram(t *testing.T, path, script string) {
	t.Helper()
	syscall.ForkLock.RLock() // what a test beside this one starts would hold the file open, and it could not be run
	err := os.WriteFile(path, []byte(script), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
}

// output runs the program to its end.
func output(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestVersion(t *testing.T) {
	stdout, stderr, status := output(t, warren(t, nil, "version"))
	if !strings.HasPrefix(stdout, "warren ") || !strings.Contains(stdout, " (go1.") || stderr != "" || status != 0 {
		t.Errorf("got %q, standard error %q and exit status %d, want warren, its version and go1..., nothing and 0", stdout, stderr, status)
	}
}

func TestFaultsOfTheCommandLine(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string // a part of standard error
	}{
		{[]string{"pubish"}, "warren: unexpected argument pubish"},
		{[]string{"run", "--fast"}, "warren: unknown flag --fast"},
		{[]string{"publish"}, `warren: expected "<queue>`},
		{[]string{"publish", "a", "b", "--priority=300"}, "warren: --priority"},
	} {
		_, stderr, status := output(t, warren(t, nil, test.args...))
		if status != 1 || !strings.Contains(stderr, test.want) || !strings.Contains(stderr, "warren --help") {
			t.Errorf("warren %q: got %q and exit status %d, want %q, a hint at --help, and 1", test.args, stderr, status, test.want)
		}
	}
}

func TestHelp(t *testing.T) {
	stdout, _, status := output(t, warren(t, nil, "--help"))
	for _, command := range []string{"run", "publish <queue> [<body>]", "check", "config", "version"} {
		if status != 0 || !strings.Contains(stdout, "\n  "+command) {
			t.Errorf("got exit status %d and the help\n%s\nwant 0 and the subcommand %s", status, stdout, command)
		}
	}
}

// What cannot start says why, on standard error, without the password that it was
// given, and without connecting to anything.
func TestFaultsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	env := []string{
		"WARREN_AMQP_URL=amqp://u:hunter2/@127.0.0.1:1",
		"WARREN_QUEUES=mail,other",
		"WARREN_QUEUE_MAIL_PROCESSOR=email",
		"WARREN_QUEUE_MAIL_FROM=shop@example.com",
		"WARREN_QUEUE_MAIL_SMTP_URL=smtp://u:hunter2@",
		"WARREN_QUEUE_OTHER_PROCESSOR=log",
		"WARREN_QUEUE_OTHER_PASSWORD=hunter2",
	}
	for _, args := range [][]string{nil, {"run"}, {"check"}} {
		stdout, stderr, status := output(t, warren(t, env, args...))
		if status != 1 || stdout != "" {
			t.Errorf("warren %q: got exit status %d and %q, want 1 and nothing", args, status, stdout)
		}
		for _, want := range []string{"warren: the configuration has 3 faults:\n", "WARREN_AMQP_URL", "SMTP_URL", "WARREN_QUEUE_OTHER_PASSWORD is unknown"} {
			if !strings.Contains(stderr, want) {
				t.Errorf("warren %q: got\n%s\nwant %q in it", args, stderr, want)
			}
		}
		if strings.Contains(stderr, "hunter2") {
			t.Errorf("warren %q shows a password:\n%s", args, stderr)
		}
	}
}
