package broker

import (
	"fmt"
	"strings"
)

// A Severity says how much there is to do about a finding.
type Severity string

// Severities.
const (
	SeverityOK      Severity = "ok"
	SeverityNote    Severity = "note"    // good to know
	SeverityWarning Severity = "warning" // work goes on without it, or does not where it should
	SeverityFault   Severity = "fault"   // what is needed is not there, or not permitted
)

// A Finding is what was found of one thing.
type Finding struct {
	Severity Severity `json:"severity"`
	What     string   `json:"what"` // such as "node mq1:5672" or "queue emails"
	Text     string   `json:"found"`
	Why      string   `json:"why,omitempty"`  // it matters
	Cure     string   `json:"cure,omitempty"` // a command, or a variable with its value
	Queue    *Counts  `json:"queue,omitempty"`
}

// Counts are what the broker says of a queue that is there.
type Counts struct {
	Name      string `json:"name"`
	Messages  int    `json:"messages"` // ready
	Consumers int    `json:"consumers"`
}

// Plural is n of what, of which there is one or several.
func Plural(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, several)
}

// String is the finding in one line, but for why it matters.
func (f Finding) String() string {
	if f.Cure == "" {
		return f.What + ": " + f.Text
	}
	return f.What + ": " + f.Text + "; " + f.Cure
}

// A Report takes findings as they are made.
type Report func(Finding)

// OK reports what is as it should be.
func (r Report) OK(what, text string) { r(Finding{Severity: SeverityOK, What: what, Text: text}) }

// Fault reports what is not: what is wrong and, after a semicolon, the remedy.
func (r Report) Fault(what, text string) {
	text, cure, _ := strings.Cut(text, "; ")
	r(Finding{Severity: SeverityFault, What: what, Text: text, Cure: cure})
}
