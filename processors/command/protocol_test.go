package command

import (
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// reading returns a child that has been asked the question 7, and what it tells of progress.
func reading() (c *child, answers chan *reply, progress *[]string) {
	answers, progress = make(chan *reply, 1), new([]string)
	c = &child{id: 7, answer: answers, kill: func(error) {}}
	c.said = &logLines{log: slog.New(slog.DiscardHandler), progress: func(percent int, text string) {
		*progress = append(*progress, fmt.Sprintf("%d %s", percent, text))
	}}
	return c, answers, progress
}

func TestProgressOfAChild(t *testing.T) {
	c, answers, progress := reading()
	text := `{"id": 7, "progress": 40.7, "text": "half"}` + "\r\n" + `{"id":7,"progress":0}` + "\n" + `{"id":7,"progress":1e300}` + "\n" + `{"id":7,"progress":-1e300,"text":"x"}` + "\n" + `{"id":7,"verdict":"ok"}` + "\n"
	if _, err := (*childOutput)(c).Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"40 half", "0 ", "100 ", "0 x"}; !slices.Equal(*progress, want) {
		t.Errorf("told %q, want %q", *progress, want)
	}
	if r := <-answers; r.Verdict != "ok" {
		t.Errorf("the answer is %q, want ok", r.Verdict)
	}
}

// FuzzChildOutput: whatever a child writes, and in whatever pieces, it is understood in
// one way or not at all.
func FuzzChildOutput(f *testing.F) {
	f.Add(`{"id":7,"progress":1}`+"\n"+`{"id":7,"verdict":"ok","result":[1]}`+"\n"+"x\n", 3)
	f.Add(`{"id":7,"verdict":"retry","delay_seconds":1e99,"reason":"\ud800"}`+"\n\n", 1)
	f.Add(`{"id":7,"log":"a","level":"warn"}`+"\n"+`{"id":8,"verdict":"dead"}`, 50)
	f.Fuzz(func(t *testing.T, text string, size int) {
		var told []string
		for _, size := range []int{max(size, 1), len(text) + 1} {
			c, answers, progress := reading()
			for part := range slices.Chunk([]byte(text), size) {
				if _, err := (*childOutput)(c).Write(part); err != nil {
					break
				}
			}
			answer := "none"
			select {
			case r := <-answers:
				answer = fmt.Sprintf("%s %s %s", r.Verdict, r.Result, r.Reason)
			default:
			}
			told = append(told, fmt.Sprint(answer, *progress, c.fault))
			if c.fault != nil && len(c.fault.Error()) > 2000 {
				t.Errorf("a fault of %d bytes", len(c.fault.Error()))
			}
		}
		if told[0] != told[1] {
			t.Errorf("told %q in pieces of %d, and %q in one", told[0], size, told[1])
		}
	})
}

// TestDocumentedMembers holds docs/handlers.md against what a child is told and may answer.
func TestDocumentedMembers(t *testing.T) {
	page, err := os.ReadFile("../../docs/handlers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Processes that stay\n")
	section, _, _ = strings.Cut(section, "\n## ")
	message, answer, _ := strings.Cut(section, "\n### The answer\n")
	for _, test := range []struct {
		of   reflect.Type
		text string
		form string
	}{
		{reflect.TypeFor[request](), message, "`%s`"},
		{reflect.TypeFor[properties](), message, "`%s`"},
		{reflect.TypeFor[reply](), answer, `"%s":`},
	} {
		for field := range test.of.Fields() {
			if name := field.Tag.Get("json"); !strings.Contains(test.text, fmt.Sprintf(test.form, name)) {
				t.Errorf("docs/handlers.md does not have %s of a %s", name, test.of.Name())
			}
		}
	}
}
