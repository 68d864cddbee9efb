package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/daemon/internal/settings"
	"github.com/warrenmq/warren/processors"
)

// testApp is Warren without its daemon.
var testApp = App{
	Program: settings.Program{Name: "warren", Version: "v1.2.3", Processors: processors.Standard()},
	In:      strings.NewReader(""), Out: io.Discard, Err: io.Discard,
	Run: func(context.Context, settings.Program, io.Writer) error { return nil },
}

// A program of one's own speaks of itself, not of Warren.
func TestNameOfTheProgram(t *testing.T) {
	var out bytes.Buffer
	app := testApp
	app.Name, app.Out = "acme-worker", &out
	execute := func(args ...string) string {
		t.Helper()
		out.Reset()
		if err := app.Execute(t.Context(), args); err != nil {
			t.Errorf("%q: %v", args, err)
		}
		return out.String()
	}
	if got := execute("version"); !strings.HasPrefix(got, "acme-worker v1.2.3 (go1.") {
		t.Errorf("version: got %q", got)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := execute("completion", shell); strings.Contains(got, "warren") || strings.Contains(got, "{") && strings.Contains(got, "{program}") || !strings.Contains(got, "acme-worker") {
			t.Errorf("completion %s: got\n%s", shell, got)
		}
	}
	if got := execute("man", "1"); strings.Contains(got, "warren") || !strings.Contains(got, `acme\-worker \- worker daemon`) || strings.Contains(got, ".SH FILES") {
		t.Errorf("man 1: got\n%s", got)
	}
	if got := execute("man", "5"); !strings.Contains(got, `/etc/acme\-worker/acme\-worker.env`) {
		t.Errorf("man 5: got\n%s", got)
	}
	if err := app.Execute(t.Context(), []string{"pubish"}); err == nil || !strings.Contains(err.Error(), "acme-worker --help lists what there is") {
		t.Errorf("an unknown subcommand: got %v", err)
	}
}

// What a node that accepts connections and says nothing comes to is said in words.
func TestANodeThatIsSilent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	t.Setenv("WARREN_AMQP_URL", "amqp://guest:guest@"+listener.Addr().String())
	for _, command := range []string{"ps", "pause orders --yes", "resume orders --yes", "quiet --all --yes", "cancel a --yes", "waiting list orders"} {
		err := testApp.Execute(t.Context(), append(strings.Fields(command), "--timeout=100ms"))
		if err == nil || !strings.HasSuffix(err.Error(), "no answer within 100ms; is the broker up?") || strings.Contains(err.Error(), "Exception") {
			t.Errorf("%s: got %v", command, err)
		}
	}
}

// Once the time is over, that is why something failed. What is done in part says so itself, and
// ends with its own status.
func TestWithin(t *testing.T) {
	over := func(err error) error {
		return within(t.Context(), time.Nanosecond, func(ctx context.Context) error {
			<-ctx.Done()
			return err
		})
	}
	if err := over(errors.New("use of closed network connection")); err == nil || err.Error() != "no answer within 1ns; is the broker up?" {
		t.Errorf("a connection that was cut: got %v", err)
	}
	if _, partial := errors.AsType[*Partial](over(&Partial{"some still take messages"})); !partial {
		t.Error("what is done in part is lost")
	}
	if err := over(nil); err != nil {
		t.Errorf("what is done: got %v", err)
	}
}
