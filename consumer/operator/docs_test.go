package operator

import (
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/operator/filter"
)

// Each filter of the documentation finds what the table says.
func TestFiltersOfTheDocumentation(t *testing.T) {
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixMilli() }
	letters := make(map[string]*Letter)
	add := func(id, typ, reason, fault string, attempts int64, age time.Duration, body string, more amqp.Table) {
		headers := amqp.Table{"x-warren-reason": reason, "x-warren-error": fault, "x-warren-attempt": attempts, "x-warren-failed-at": ago(age)}
		maps.Copy(headers, more)
		letters[id] = newLetter("emails", "warren", &amqp.Delivery{MessageId: id, Type: typ, Headers: headers, Body: []byte(body)})
	}
	add("a", "order.created", "exhausted", "451 try again later", 20, time.Hour, `{"customer":{"vip":true},"total":99.91,"items":[{"sku":"A-1"}]}`, amqp.Table{"tenant": "blue"})
	add("b", "order.created", "permanent", "no such MailBox", 7, 3*time.Hour, `{"customer":{"vip":true},"total":99.90}`, amqp.Table{"x-tenant.id": int64(7), "x-warren-replayed": int64(1)})
	add("c", "", "permanent", "time out", 5, 48*time.Hour, "A-1", amqp.Table{"tenant": "red", "x-tenant.id": "7"})
	letters["d"] = newLetter("emails", "warren", &amqp.Delivery{MessageId: "d", Headers: amqp.Table{
		"x-death": []any{amqp.Table{"reason": "delivery_limit", "queue": "emails", "time": time.Now().Add(-5 * time.Hour)}},
	}})

	page, err := os.ReadFile("../../docs/dead-letters.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| filter | meaning |")
	table, _, _ = strings.Cut(table, "\n\n")
	var got strings.Builder
	for _, m := range regexp.MustCompile("(?m)^\\| `(.*)` \\| [^|]*\\|$").FindAllStringSubmatch(table, -1) {
		text := strings.ReplaceAll(m[1], `\|`, "|")
		f, err := filter.Parse(text, LetterFields)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got.WriteString(text + " : ")
		for _, id := range []string{"a", "b", "c", "d"} {
			if f.Match(letters[id]) {
				got.WriteString(id)
			}
		}
		got.WriteString("\n")
	}
	want := `reason = exhausted : a
reason = delivery_limit or reason = rejected : d
age < 2h : a
error ~ "451|timed? out" : ac
error !~ '(?i)mailbox' and attempts >= 5 : ac
type = order.created and not replayed : a
header.tenant = blue : a
header."x-tenant.id" != 7 : ad
body.customer.vip = true and body.total > 99.90 : a
body.items.0.sku = A-1 or body ~ "A-1" : ac
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
	for _, field := range append(LetterFields.Plain, LetterFields.Paths...) {
		if !strings.Contains(string(page), "`"+field+"`") {
			t.Errorf("the page lacks the field %s", field)
		}
	}
}

func TestCause(t *testing.T) {
	for text, want := range map[string]string{
		"451 4.3.0 try again later":                      "451 <n> try again later",
		"550 5.1.1 <eve@example.net>: no such mailbox":   "550 <n> <mail>: no such mailbox",
		"status 503 from http://10.0.0.7:8080/orders/17": "status 503 from http://<address>/orders/<n>",
		"HTTP 404":                                                "HTTP 404",
		"exit status 65: order 4711 is gone":                      "exit status 65: order <n> is gone",
		`open "/tmp/a b": no such file`:                           `open "*": no such file`,
		"order 'A-17' and 'B-18' don't match":                     "order '*' and '*' don't match",
		"job 0af76519-16cd-43dd-8448-eb211c80319c failed":         "job <id> failed",
		"dial tcp [::1]:5432: connection refused":                 "dial tcp <address>: connection refused",
		"panic at 0xc000012345":                                   "panic at <id>",
		"token 4f3a9b8c7d6e5f4a3b2c expired after 1.5s":           "token <id> expired after <n>s",
		"late since 2026-11-26T02:10:04+01:00":                    "late since <time>",
		"first line 1\nsecond line 2":                             "first line <n>",
		"the attempt took longer than the queue's timeout (50ms)": "the attempt took longer than the queue's timeout (<n>ms)",
		"10.0.0.7:80 answered 404 Not Found: no order 5":          "<address> answered 404 Not Found: no order <n>",
		"3 errors": "<n> errors",
		"":         "",
	} {
		if got := Cause(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
