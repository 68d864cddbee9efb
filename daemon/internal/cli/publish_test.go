package cli

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/warrenmq/warren/consumer"
)

// parsePublish parses the arguments of warren publish.
func parsePublish(t *testing.T, args ...string) *publishCommand {
	t.Helper()
	var c commands
	parser, err := testApp.parser(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(append([]string{"publish"}, args...)); err != nil {
		t.Fatalf("warren publish %q: %v", args, err)
	}
	return &c.Publish
}

func TestPublishArguments(t *testing.T) {
	p := parsePublish(t, "orders", `{"id": 7}`,
		"--exchange=shop", "--message-id=m1", "--correlation-id=c1", "--reply-to=answers", "--type=order.made",
		"--content-type=text/plain", "--priority=5", "--expiration=90s",
		"--header=x-delay=5000", "-H", "half=0.5", "-H", "big=12345678901234567890", "-H", "yes=true", "-H", "none=null",
		"-H", `quoted="5000"`, "-H", "list=[1,2]", "-H", "text=a=b,c d", "-H", "empty=", "-H", "zip=01234", "-H", "two=1 2",
	)
	got, err := p.message("warren", iotest.ErrReader(errors.New("standard input was read")))
	if err != nil {
		t.Fatal(err)
	}
	want := consumer.Message{
		Exchange: "shop", RoutingKey: "orders", Body: []byte(`{"id": 7}`),
		MessageID: "m1", CorrelationID: "c1", ReplyTo: "answers", Type: "order.made", AppID: "warren",
		ContentType: "text/plain", Priority: 5, Expiration: 90 * time.Second,
		Headers: map[string]any{
			"x-delay": int64(5000), "half": 0.5, "big": 12345678901234567890.0, "yes": true, "none": nil,
			"quoted": "5000", "list": "[1,2]", "text": "a=b,c d", "empty": "", "zip": "01234", "two": "1 2",
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestPublishMakesAMessageID(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		msg, err := parsePublish(t, "orders", "").message("warren", nil)
		if err != nil || msg.MessageID == "" || seen[msg.MessageID] {
			t.Fatalf("got the id %q and the error %v, want one that is new", msg.MessageID, err)
		}
		seen[msg.MessageID] = true
	}
}

func TestSourcesOfABody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(path, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args        []string
		want, fault string
	}{
		{args: []string{"q"}, want: "from standard input\n"},
		{args: []string{"q", ""}, want: ""},
		{args: []string{"q", "from an argument"}, want: "from an argument"},
		{args: []string{"q", "--file", path}, want: "from a file\n"},
		{args: []string{"q", "x", "--file", path}, fault: "the body is given as an argument and with --file; leave one out"},
		{args: []string{"q", "--file", path + ".absent"}, fault: "--file: open " + path + ".absent"},
		{args: []string{"q", "x", "-H", "novalue"}, fault: `header "novalue" is not of the form name=value`},
		{args: []string{"q", "x", "-H", "=5"}, fault: `header "=5" is not of the form name=value`},
	} {
		msg, err := parsePublish(t, test.args...).message("warren", strings.NewReader("from standard input\n"))
		if test.fault == "" && (err != nil || string(msg.Body) != test.want) {
			t.Errorf("warren publish %q: got the body %q and the error %v, want %q", test.args, msg.Body, err, test.want)
		}
		if test.fault != "" && (err == nil || !strings.Contains(err.Error(), test.fault)) {
			t.Errorf("warren publish %q: got the error %v, want one with %q", test.args, err, test.fault)
		}
	}
}

func TestDueTimesOfMessages(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		args  []string
		want  time.Time
		fault string
	}{
		{nil, time.Time{}, ""},
		{[]string{"--delay=90s"}, now.Add(90 * time.Second), ""},
		{[]string{"--at=2026-12-24T18:00:00+01:00"}, time.Date(2026, 12, 24, 17, 0, 0, 0, time.UTC), ""},
		{[]string{"--at=2026-12-24 18:00"}, time.Date(2026, 12, 24, 18, 0, 0, 0, time.Local), ""},
		{[]string{"--at=2026-12-24 18:00:30"}, time.Date(2026, 12, 24, 18, 0, 30, 0, time.Local), ""},
		{[]string{"--at=tomorrow"}, time.Time{}, `--at is "tomorrow"; it must be a time such as`},
		{[]string{"--at=2026-11-20T12:00:00Z"}, time.Time{}, "--at is 2026-11-20T12:00:00Z, which has passed"},
		{[]string{"--at=2036-01-01 00:00"}, time.Time{}, "it must be within 366 days"},
		{[]string{"--delay=9000h"}, time.Time{}, "it must be within 366 days"},
		{[]string{"--delay=-1s"}, time.Time{}, "--delay is -1s; it must be positive"},
		{[]string{"--delay=1s", "--at=2026-12-24 18:00"}, time.Time{}, "both given"},
	} {
		got, err := parsePublish(t, append([]string{"orders", ""}, c.args...)...).due(now)
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%q: got %v and error %v, want the error %s", c.args, got, err, c.fault)
			}
			continue
		}
		if err != nil || !got.Equal(c.want) {
			t.Errorf("%q: got %v and error %v, want %v", c.args, got, err, c.want)
		}
	}
	p := parsePublish(t, "orders", "", "--delay=1h")
	msg, err := p.message("warren", nil)
	due, _ := msg.Headers["x-warren-not-before"].(int64)
	if left := time.Until(time.UnixMilli(due)); err != nil || left < 59*time.Minute || left > time.Hour {
		t.Errorf("header x-warren-not-before: got %d (in %v) and error %v, want an hour ahead", due, left, err)
	}
}
