package settings

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheRemediesOfTheConfigurationCure follows what each error of the configuration says,
// and expects no error then.
func TestTheRemediesOfTheConfigurationCure(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificates := systemAuthorities(t)
	for _, c := range []struct {
		base, remedy string
		wrong, right []string
		cure         func() // between the two
	}{
		{remedy: "unset one of them", wrong: []string{"WARREN_LOG_LEVEL=info", "WARREN_LOG_LEVEL_FILE=" + write("level", "info\n", 0o600)}, right: []string{"WARREN_LOG_LEVEL_FILE=" + filepath.Join(dir, "level")}},
		{remedy: "the file must be there and readable", wrong: []string{"WARREN_ADMIN_TOKEN_FILE=" + filepath.Join(dir, "token")}, right: []string{"WARREN_ADMIN_TOKEN_FILE=" + filepath.Join(dir, "token")},
			cure: func() { write("token", "0123456789abcdef0123", 0o600) }},
		{remedy: "rename one of them", wrong: []string{"WARREN_QUEUES=q,a.b,a-b", "WARREN_QUEUE_A_B_PROCESSOR=log"}, right: []string{"WARREN_QUEUES=q,a.b,a-c", "WARREN_QUEUE_A_B_PROCESSOR=log", "WARREN_QUEUE_A_C_PROCESSOR=log"}},
		{remedy: "a name is made of letters, digits, -, . and _", wrong: []string{"WARREN_QUEUES=q,a b"}, right: []string{"WARREN_QUEUES=q,a_b", "WARREN_QUEUE_A_B_PROCESSOR=log"}},
		{remedy: "the nearest known name is WARREN_QUEUE_Q_MAX_ATTEMPTS", wrong: []string{"WARREN_QUEUE_Q_MAX_ATEMPTS=5"}, right: []string{"WARREN_QUEUE_Q_MAX_ATTEMPTS=5"}},
		{remedy: "special characters in user and password are percent-encoded: / is %2F, @ is %40", wrong: []string{"WARREN_AMQP_URL=amqp://u:a/b%@h/"}, right: []string{"WARREN_AMQP_URL=amqp://u:a%2Fb%25@h/"}},
		{remedy: "a comma is %2C", wrong: []string{"WARREN_AMQP_URL=amqp://u:a,b@h/"}, right: []string{"WARREN_AMQP_URL=amqp://u:a%2Cb@h/"}},
		{remedy: "a comma in a password is written %2C", wrong: []string{"WARREN_AMQP_URL=amqp://u:p@h/v,w"}, right: []string{"WARREN_AMQP_URL=amqp://u:p@h/v%2Cw"}},
		{remedy: "special characters percent-encoded", wrong: []string{"WARREN_DATABASE_URL=postgres://u:a/b#@h/d"}, right: []string{"WARREN_DATABASE_URL=postgres://u:a%2Fb%23@h/d"}},
		{remedy: "look at its host, port and parameters, such as sslmode", wrong: []string{"WARREN_DATABASE_URL=postgres://u:p@h/d?sslmode=on"}, right: []string{"WARREN_DATABASE_URL=postgres://u:p@h/d?sslmode=require"}},

		{remedy: "set WARREN_ADMIN_TOKEN or WARREN_ADMIN_METRICS_TOKEN", wrong: []string{"WARREN_ADMIN_ADDR=0.0.0.0:9466"}, right: []string{"WARREN_ADMIN_ADDR=0.0.0.0:9466", "WARREN_ADMIN_TOKEN=0123456789abcdef0123"}},
		{remedy: "or WARREN_ADMIN_METRICS_TOKEN, or use", wrong: []string{"WARREN_ADMIN_ADDR=0.0.0.0:9466"}, right: []string{"WARREN_ADMIN_ADDR=0.0.0.0:9466", "WARREN_ADMIN_METRICS_TOKEN=0123456789abcdef0123"}},
		{remedy: "or use 127.0.0.1", wrong: []string{"WARREN_ADMIN_ADDR=0.0.0.0:9466"}, right: []string{"WARREN_ADMIN_ADDR=127.0.0.1:9466"}},
		{remedy: "it must have at least 16 characters", wrong: []string{"WARREN_ADMIN_TOKEN=short"}, right: []string{"WARREN_ADMIN_TOKEN=0123456789abcdef"}},
		{remedy: "give each its own", wrong: []string{"WARREN_ADMIN_METRICS_TOKEN=0123456789abcdef", "WARREN_ADMIN_PUBLISH_TOKEN=0123456789abcdef"}, right: []string{"WARREN_ADMIN_METRICS_TOKEN=0123456789abcdef", "WARREN_ADMIN_PUBLISH_TOKEN=123456789abcdef0"}},
		{remedy: "or set WARREN_ADMIN_TOKEN alone", wrong: []string{"WARREN_ADMIN_METRICS_TOKEN=0123456789abcdef", "WARREN_ADMIN_PUBLISH_TOKEN=0123456789abcdef"}, right: []string{"WARREN_ADMIN_TOKEN=0123456789abcdef"}},

		{base: "command", remedy: "close every quote and parenthesis", wrong: []string{"COMMAND=/bin/cat 'a"}, right: []string{"COMMAND=/bin/cat 'a'"}},
		{base: "command", remedy: "quote it, or run", wrong: []string{"COMMAND=/bin/cat a;b"}, right: []string{"COMMAND=/bin/cat 'a;b'"}},
		{base: "command", remedy: "or run sh -c '...'", wrong: []string{"COMMAND=/bin/cat | /bin/cat"}, right: []string{"COMMAND=sh -c '/bin/cat | /bin/cat'"}},
		{base: "command", remedy: "have the program read a file", wrong: []string{"COMMAND=/bin/cat " + strings.Repeat("x", 128<<10)}, right: []string{"COMMAND=/bin/cat " + write("long", strings.Repeat("x", 128<<10), 0o600)}},
		{base: "command", remedy: "install the program there", wrong: []string{"COMMAND=" + filepath.Join(dir, "absent")}, right: []string{"COMMAND=" + filepath.Join(dir, "absent")}, cure: func() { write("absent", "#!/bin/sh\n", 0o755) }},
		{base: "command", remedy: "make it executable with chmod +x", wrong: []string{"COMMAND=" + write("plain", "#!/bin/sh\n", 0o644)}, right: []string{"COMMAND=" + filepath.Join(dir, "plain")}, cure: func() {
			if err := os.Chmod(filepath.Join(dir, "plain"), 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{base: "command", remedy: "or write its whole path", wrong: []string{"COMMAND=handle"}, right: []string{"COMMAND=" + write("handle", "#!/bin/sh\n", 0o755)}},
		{base: "command", remedy: "create the user, or name another", wrong: []string{"COMMAND=cat", "USER=no-such-user"}, right: []string{"COMMAND=cat", "USER="}},
		{base: "command", remedy: "write one variable a line, and its name of letters", wrong: []string{"COMMAND=cat", "ENV=A-B=1"}, right: []string{"COMMAND=cat", "ENV=A_B=1"}},
		{base: "command", remedy: "something follows the closing quote; write one variable a line", wrong: []string{"COMMAND=cat", `ENV=A="1" B="2"`}, right: []string{"COMMAND=cat", "ENV=A=\"1\"\nB=\"2\""}},
		{base: "command", remedy: "WARREN_QUEUE is set by Warren itself; leave it out", wrong: []string{"COMMAND=cat", "ENV=WARREN_QUEUE=a\nB=2"}, right: []string{"COMMAND=cat", "ENV=B=2"}},
		{base: "command", remedy: "A is there twice; leave one of them out", wrong: []string{"COMMAND=cat", "ENV=A=1\nA=2"}, right: []string{"COMMAND=cat", "ENV=A=2"}},
		{base: "command", remedy: "which no variable can have; encode it", wrong: []string{"COMMAND=cat", "ENV_FILE=" + write("zero", "A=a\x00b\n", 0o600)}, right: []string{"COMMAND=cat", "ENV_FILE=" + write("encoded", "A=YQBi\n", 0o600)}},
		{base: "command", remedy: "that a variable can have; have the program read a file", wrong: []string{"COMMAND=cat", "ENV_FILE=" + write("much", "A="+strings.Repeat("x", 129<<10), 0o600)}, right: []string{"COMMAND=cat", "ENV=A_FILE=" + filepath.Join(dir, "long")}},

		{base: "webhook", remedy: "percent-encode reserved characters in user and password", wrong: []string{"URL=https://u:a/b?@h/"}, right: []string{"URL=https://u:a%2Fb%3F@h/"}},
		{base: "webhook", remedy: "it may have letters, digits and hyphens", wrong: []string{"URL=https://h/", `HEADERS={"A B": "1"}`}, right: []string{"URL=https://h/", `HEADERS={"A-B": "1"}`}},
		{base: "webhook", remedy: "Webhook-Id is set by Warren itself; leave it out", wrong: []string{"URL=https://h/", `HEADERS={"Webhook-Id": "1", "A": "1"}`}, right: []string{"URL=https://h/", `HEADERS={"A": "1"}`}},
		{base: "webhook", remedy: "to name a file, set CA_FILE", wrong: []string{"URL=https://h/", "CA=" + certificates}, right: []string{"URL=https://h/", "CA_FILE=" + certificates}},
		{base: "webhook", remedy: "echo whsec_$(openssl rand -base64 32) makes one", wrong: []string{"URL=https://h/", "SECRET=guess"}, right: []string{"URL=https://h/", "SECRET=whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}},

		{base: "email", remedy: "percent-encode reserved characters in user and password", wrong: []string{"FROM=a@b.c", "SMTP_URL=smtp://u:a/b@h"}, right: []string{"FROM=a@b.c", "SMTP_URL=smtp://u:a%2Fb@h"}},
		{base: "email", remedy: "SMTP_URL has a password and ?tls=none: it would cross the network for all to read; remove one of them", wrong: []string{"FROM=a@b.c", "SMTP_URL=smtp://u:p@h?tls=none"}, right: []string{"FROM=a@b.c", "SMTP_URL=smtp://u:p@h"}},

		{base: "schedule", remedy: "one of Warren's own queues; name one that is worked", wrong: []string{"EVERY=1m", "QUEUE=warren.wait.q.1s"}, right: []string{"EVERY=1m", "QUEUE=q"}},
		{base: "schedule", remedy: "look at WARREN_SCHEDULE_S_HEADERS", wrong: []string{"EVERY=1m", "QUEUE=q", `HEADERS={"` + strings.Repeat("n", 300) + `": "1"}`}, right: []string{"EVERY=1m", "QUEUE=q", `HEADERS={"n": "1"}`}},
		{base: "schedule", remedy: "and so does TZ; leave one out", wrong: []string{"CRON=CRON_TZ=Europe/Berlin 0 3 * * *", "TZ=UTC", "QUEUE=q"}, right: []string{"CRON=CRON_TZ=Europe/Berlin 0 3 * * *", "QUEUE=q"}},
		{base: "schedule", remedy: "one is called as Europe/Berlin is", wrong: []string{"CRON=0 3 * * *", "TZ=Berlin", "QUEUE=q"}, right: []string{"CRON=0 3 * * *", "TZ=Europe/Berlin", "QUEUE=q"}},
		{base: "schedule", remedy: "@every is what EVERY is for; set that in place of CRON", wrong: []string{"CRON=@every 1m", "QUEUE=q"}, right: []string{"EVERY=1m", "QUEUE=q"}},
	} {
		t.Run(c.base+" "+c.remedy, func(t *testing.T) {
			load := func(more []string) error {
				env := []string{"WARREN_QUEUES=q", "WARREN_QUEUE_Q_PROCESSOR=log"}
				of := ""
				switch c.base {
				case "":
				case "schedule":
					env, of = append(env, "WARREN_SCHEDULES=s"), "WARREN_SCHEDULE_S_"
				default:
					env, of = append(env, "WARREN_QUEUE_Q_PROCESSOR="+c.base), "WARREN_QUEUE_Q_"
				}
				for _, m := range more {
					env = append(env, of+m)
				}
				setenv(t, env...)
				_, err := Load(program, io.Discard)
				return err
			}
			if err := load(c.wrong); err == nil || !strings.Contains(err.Error(), c.remedy) {
				t.Fatalf("the error %v does not name the remedy", err)
			}
			if c.cure != nil {
				c.cure()
			}
			if err := load(c.right); err != nil {
				t.Errorf("with the remedy followed: %v", err)
			}
		})
	}
}

// systemAuthorities is a file of certificates that every Debian has.
func systemAuthorities(t *testing.T) string {
	t.Helper()
	const path = "/etc/ssl/certs/ca-certificates.crt"
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; apt-get install ca-certificates provides it", err)
	}
	return path
}
