package email

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/internal/mail"
)

// TestDocumentedMail holds docs/email.md to what is done.
func TestDocumentedMail(t *testing.T) {
	content, err := os.ReadFile("../../docs/email.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(content)
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(page, -1)
	if len(blocks) != 2 {
		t.Fatalf("the page has %d blocks of JSON, the test knows 2", len(blocks))
	}
	subject := regexp.MustCompile("`({{define \"subject\"}}.*?{{end}})`").FindStringSubmatch(page)
	if subject == nil {
		t.Fatal("the page defines no subject")
	}
	dir := t.TempDir()
	p := newProcessor(t, Config{Maildir: dir, Templates: folder(t, map[string]string{"confirmation.txt": subject[1] + "Dear {{.name}}"})})
	answer, err := consumertest.Run(t.Context(), p, delivery(t, "order-4711", blocks[0][1]))
	if err != nil {
		t.Fatal(err)
	}
	var got, want mail.Sent
	for text, sent := range map[string]*mail.Sent{string(answer.Body): &got, blocks[1][1]: &want} {
		if err := json.Unmarshal([]byte(text), sent); err != nil {
			t.Fatal(err)
		}
	}
	if got != want {
		t.Errorf("got %+v, documented is %+v", got, want)
	}
	if m := parseMail(t, onlyMail(t, dir)); m.subject != "Order 4711" || m.text != "Dear Ada" || m.attachments["invoice.pdf"] == "" {
		t.Errorf("got %+v", m)
	}

	for field := range reflect.TypeFor[message]().Fields() {
		if name := field.Tag.Get("json"); !strings.Contains(page, "`"+name+"`") || !strings.Contains(messageFields, name) {
			t.Errorf("the field %s is not documented, or not in the error for an unknown one", name)
		}
	}
	for _, bound := range []string{fmt.Sprintf("%d MiB", maxOutputBytes>>20), "100,000"} {
		if !strings.Contains(page, bound) {
			t.Errorf("the page lacks %s", bound)
		}
	}
	if maxRepeats != 100_000 {
		t.Error("the page has another bound of repeats")
	}
}
