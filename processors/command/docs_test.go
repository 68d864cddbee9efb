package command_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/command"
)

func handlersPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/handlers.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// documentedHandler makes the processor that runs the page's last block in the language.
func documentedHandler(t *testing.T, language, env string) consumer.Processor {
	t.Helper()
	blocks := regexp.MustCompile("(?s)```"+language+"\n(#!.*?)```").FindAllStringSubmatch(handlersPage(t), -1)
	if len(blocks) != 1 {
		t.Fatalf("docs/handlers.md has %d complete handlers in %s, want one", len(blocks), language)
	}
	path := filepath.Join(t.TempDir(), "handler")
	if err := os.WriteFile(path, []byte(blocks[0][1]), 0o755); err != nil {
		t.Fatal(err)
	}
	return newProcessor(t, command.Config{Command: path, Env: env})
}

// TestDocumentedVariables holds the table against what a program is given.
func TestDocumentedVariables(t *testing.T) {
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[A-Z_`, ]+) \\|").FindAllStringSubmatch(handlersPage(t), -1) {
		for name := range strings.SplitSeq(row[1], ",") {
			documented = append(documented, strings.Trim(name, " `"))
		}
	}
	// The context of a test has neither a deadline nor a span.
	given := []string{"WARREN_DEADLINE", "TRACEPARENT", "TRACESTATE"}
	p := newProcessor(t, command.Config{Command: "env"})
	for line := range strings.Lines(ask(t, p, consumer.Delivery{})) {
		name, _, _ := strings.Cut(line, "=")
		given = append(given, name)
	}
	slices.Sort(documented)
	slices.Sort(given)
	if !slices.Equal(documented, given) {
		t.Errorf("docs/handlers.md has %q, a program is given %q", documented, given)
	}
}

func TestDocumentedHandlerInPython(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/prices/tea/green":
			_, _ = w.Write([]byte(`{"cents": 450}`))
		case "/prices/broken":
			w.WriteHeader(http.StatusInternalServerError)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // nobody listens there any more

	for name, test := range map[string]struct{ url, body, verdict, want string }{
		"an order":       {server.URL, `{"order": "A-17", "lines": [{"sku": "tea/green", "quantity": 3}]}`, "ack", `{"order": "A-17", "cents": 1350}` + "\n"},
		"nothing in it":  {server.URL, `{"lines": []}`, "ack", `{"order": null, "cents": 0}` + "\n"},
		"not an order":   {server.URL, `{"lines": 1}`, "dead", "exit status 65: not an order: TypeError"},
		"not JSON":       {server.URL, `{"lines"`, "dead", "exit status 65: not an order: JSONDecodeError"},
		"not UTF-8":      {server.URL, "\"\xff\"", "dead", "exit status 65: not an order: UnicodeDecodeError"},
		"unknown":        {server.URL, `{"lines": [{"sku": "x", "quantity": 1}]}`, "dead", "exit status 65: there is no x"},
		"broken service": {server.URL, `{"lines": [{"sku": "broken", "quantity": 1}]}`, "retry", "exit status 1:\nTraceback"},
		"service down":   {"http://" + l.Addr().String(), `{"lines": [{"sku": "x", "quantity": 1}]}`, "unavailable", "exit status 69: the shop is down: <urlopen error [Errno 111] Connection refused>"},
	} {
		p := documentedHandler(t, "python", "SHOP_URL="+test.url)
		result, err := consumertest.Run(t.Context(), p, consumer.Delivery{ReplyTo: "answers", Body: []byte(test.body)})
		got := string(result.Body)
		if err != nil {
			got = err.Error()
		}
		if verdict := consumertest.Verdict(err); verdict != test.verdict || !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: verdict %s with %q, want %s with %q", name, verdict, got, test.verdict, test.want)
		}
	}
}

func TestDocumentedHandlerInShell(t *testing.T) {
	inbox := t.TempDir()
	p := documentedHandler(t, "sh", "INBOX="+inbox)
	for _, body := range []string{"first", "second"} {
		d := consumer.Delivery{MessageID: "../$(id) 1\n", ContentType: "text/csv; header=absent", Body: []byte(body)}
		if got := ask(t, p, d); !regexp.MustCompile(`^\{"file": "[0-9a-f]{32}\.csv"\}\n$`).MatchString(got) {
			t.Errorf("answered %q", got)
		}
		files, err := os.ReadDir(inbox)
		if err != nil || len(files) != 1 {
			t.Fatalf("got %v and %v, want one file", files, err)
		}
		if content, err := os.ReadFile(filepath.Join(inbox, files[0].Name())); err != nil || string(content) != body {
			t.Errorf("the file has %q (%v), want %q", content, err, body)
		}
	}
	_, err := consumertest.Run(t.Context(), p, consumer.Delivery{})
	if got := consumertest.Verdict(err); got != "dead" || err.Error() != "exit status 65: cannot take application/json" {
		t.Errorf("of another type: verdict %s (%v), want dead", got, err)
	}
	_, err = consumertest.Run(t.Context(), documentedHandler(t, "sh", "INBOX="+inbox+"/absent"), consumer.Delivery{ContentType: "text/csv"})
	if got := consumertest.Verdict(err); got != "unavailable" {
		t.Errorf("without the folder: verdict %s (%v), want unavailable", got, err)
	}
}
