package command_test

import (
	"encoding/json"
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

// documentedHandler writes the page's complete handler in the language to a file: the one
// for a process that stays, or for each message.
func documentedHandler(t *testing.T, language string, stays bool) (path string) {
	t.Helper()
	spawned, pooled, found := strings.Cut(handlersPage(t), "\n## Processes that stay\n")
	if !found {
		t.Fatal("docs/handlers.md has no section Processes that stay")
	}
	section := spawned
	if stays {
		section = pooled
	}
	blocks := regexp.MustCompile("(?s)```"+language+"\n(#!.*?)```").FindAllStringSubmatch(section, -1)
	if len(blocks) != 1 {
		t.Fatalf("docs/handlers.md has %d complete handlers in %s (that stay: %v), want one", len(blocks), language, stays)
	}
	return writeProgram(t, blocks[0][1])
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
		p := newProcessor(t, command.Config{Command: documentedHandler(t, "python", false), Env: "SHOP_URL=" + test.url})
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
	p := newProcessor(t, command.Config{Command: documentedHandler(t, "sh", false), Env: "INBOX=" + inbox})
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
	p = newProcessor(t, command.Config{Command: documentedHandler(t, "sh", false), Env: "INBOX=" + inbox + "/absent"})
	_, err = consumertest.Run(t.Context(), p, consumer.Delivery{ContentType: "text/csv"})
	if got := consumertest.Verdict(err); got != "unavailable" {
		t.Errorf("without the folder: verdict %s (%v), want unavailable", got, err)
	}
}

// TestDocumentedHandlersThatStay runs each of the five, which all do the same, and looks
// whether one process has done it all.
func TestDocumentedHandlersThatStay(t *testing.T) {
	for language, program := range map[string]string{"python": "python3", "js": "nodejs", "php": "php-cli", "ruby": "ruby", "sh": "jq"} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			path := documentedHandler(t, language, true)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(content), "\n"); n > 30 {
				t.Errorf("the handler has %d lines, want at most 30", n)
			}
			prices := filepath.Join(t.TempDir(), "prices.json")
			if err := os.WriteFile(prices, []byte(`{"tea/gr\u00fcn": 450, "café 🍵": 5}`), 0o600); err != nil {
				t.Fatal(err)
			}
			log := new(stderrLog)
			p := newPoolOf(t, 1, log.logger(), command.Config{Command: path, Env: "PRICES=" + prices})
			for _, test := range []struct{ body, verdict, want string }{
				{`{"order": "A-17", "lines": [{"sku": "tea/grün", "quantity": 3}, {"sku": "café 🍵", "quantity": 2}]}`, "ack", `{"order":"A-17","cents":1360}`},
				{`{"order": " \n\"\u0000", "lines": [{"sku": "tea/grün", "quantity": 1}]}`, "ack", `{"order":" \n\"\u0000","cents":450}`},
				{`{"order": "A-18", "lines": [{"sku": "soap", "quantity": 1}]}`, "dead", "the command answered dead"},
				{`{"order": "A-19"`, "dead", "the command answered dead"},
				{`{"order": "A-20"}`, "dead", "the command answered dead"},
				{"\xff", "dead", "the command answered dead"},
				{`{"order": "A-21", "lines": [{"sku": "tea/grün", "quantity": 1}]}`, "ack", `{"order":"A-21","cents":450}`},
				{"prices gone", "unavailable", "the command answered unavailable: there are no prices"},
			} {
				if test.body == "prices gone" {
					if err := os.Remove(prices); err != nil {
						t.Fatal(err)
					}
					test.body = `{"order": "A-22", "lines": [{"sku": "tea/grün", "quantity": 1}]}`
					if language == "js" {
						test.want = "the command answered unavailable:\nError: ENOENT"
					}
				}
				got, err := run(t, p, test.body)
				if err != nil {
					got = err.Error()
				} else {
					got = compact(t, got)
					test.want = compact(t, test.want)
				}
				if verdict := consumertest.Verdict(err); verdict != test.verdict || !strings.HasPrefix(got, test.want) {
					t.Errorf("%s: verdict %s with %q, want %s with %q (package %s provides what runs it)", test.body, verdict, got, test.verdict, test.want, program)
				}
			}
			if len(log.lines)+len(log.warnings) > 0 {
				t.Errorf("the handler wrote %q, or did not stay: %v", log.lines, log.warnings)
			}
		})
	}
}

// compact has all JSON that says the same look the same.
func compact(t *testing.T, text string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	out, _ := json.Marshal(v)
	return string(out)
}
