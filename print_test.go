package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every variable is there with its value and where that is from, the faulty ones too, and
// no secret is.
func TestConfigPrintsWhatIsConfigured(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"warren_queue_mail_smtp_url": "smtp://u:hunter2@host", "from": "Shop <shop@example.com>\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	from := filepath.Join(dir, "from")
	env := []string{
		"CREDENTIALS_DIRECTORY=" + dir,
		"WARREN_AMQP_URL=amqp://u:hunter2@host",
		"WARREN_QUEUES=mail,run",
		"WARREN_SHUTDOWN_TIMEOUT=25s",
		"WARREN_QUEUE_MAIL_PROCESSOR=email",
		"WARREN_QUEUE_MAIL_FROM_FILE=" + from,
		"WARREN_QUEUE_MAIL_TIMEOUT=90s",
		"WARREN_QUEUE_RUN_PROCESSOR=command",
		"WARREN_QUEUE_RUN_COMMAND=cat\ngit+ssh://u:hun@ter2@host",
		"WARREN_QUEUE_RUN_ENV=# The key.\nKEY=hunter2",
	}
	want := []string{
		"# the daemon",
		"WARREN_AMQP_URL=******  [environment; the default is amqp://guest:guest@localhost:5672/]",
		"WARREN_QUEUES=mail,run  [environment]",
		"WARREN_SHUTDOWN_TIMEOUT=25s  [environment; the default is 25s]",
		"WARREN_ADMIN_ADDR=127.0.0.1:9466  [default]",
		"    The bearer token that permits everything there, at least 16 characters; without it and those below, the address must be a loopback one, and the API is closed.",
		"# queue mail",
		"WARREN_QUEUE_MAIL_TIMEOUT=90s  [environment; the default is 5m]",
		"WARREN_QUEUE_MAIL_SMTP_URL=******  [credential warren_queue_mail_smtp_url]",
		"WARREN_QUEUE_MAIL_FROM=Shop <shop@example.com>  [file " + from + "]",
		"WARREN_QUEUE_MAIL_TEMPLATES=  [not set]",
		"# queue run",
		`WARREN_QUEUE_RUN_COMMAND="cat\ngit+ssh://******@host"  [environment]`,
		"WARREN_QUEUE_RUN_ENV=******  [environment]",
	}

	check := func(stdout string, want []string) {
		t.Helper()
		rest := stdout
		for _, line := range want { // in this order
			_, after, found := strings.Cut("\n"+rest, "\n"+line+"\n")
			if !found {
				t.Fatalf("got\n%s\nwant the line %q, after those before it", stdout, line)
			}
			rest = after
		}
		if strings.Contains(stdout, "hunter2") || strings.Contains(stdout, "hun@ter2") {
			t.Errorf("it shows a password:\n%s", stdout)
		}
	}
	stdout, stderr, status := output(t, warren(t, env, "config"))
	if status != 0 || stderr != "" {
		t.Errorf("got %q and exit status %d, want nothing and 0", stderr, status)
	}
	check(stdout, want)

	faults := append(env, "WARREN_QUEUE_RUN_TIMEOUT=5", "WARREN_QUEUE_RUN_TIMOUT=5s", "WARREN_ADMIN_TOKEN_FILE=/nowhere/token")
	stdout, stderr, status = output(t, warren(t, faults, "config"))
	if status != 1 || !strings.HasPrefix(stderr, "warren: the configuration has 3 faults:\n") {
		t.Errorf("got %q and exit status %d, want 3 faults and 1", stderr, status)
	}
	check(stdout, want)
	check(stdout, []string{"WARREN_ADMIN_TOKEN=  [cannot be read]", "WARREN_QUEUE_RUN_TIMEOUT=5  [environment; the default is 5m]"})
}

func TestConfigPrintsTheExample(t *testing.T) {
	want, err := os.ReadFile("config.example.env")
	if err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, status := output(t, warren(t, nil, "config", "--example")); stdout != string(want) || stderr != "" || status != 0 {
		t.Errorf("got %q, standard error %q and exit status %d, want config.example.env, nothing and 0", stdout, stderr, status)
	}
}
