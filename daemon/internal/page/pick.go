package page

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/consumer/operator/filter"
)

const (
	// maxIDs is how many messages may be marked at once.
	maxIDs = 1000
	// maxFilter is the longest filter.
	maxFilter = 4000
)

// A pick says which messages of a queue are meant.
type pick struct {
	Queue  string
	IDs    []string
	Filter string
	All    bool
	Limit  int
	filter *filter.Filter
}

var errNoQueue = errors.New("no queue is named")

// picked reads which messages are meant; fields are those that a filter may have.
func picked(form url.Values, fields filter.Fields) (p pick, err error) {
	p = pick{Queue: form.Get("queue"), Filter: strings.TrimSpace(form.Get("filter")), All: form.Get("all") == "yes"}
	switch {
	case p.Queue == "":
		return p, errNoQueue
	case len(p.Queue) > 255 || !utf8.ValidString(p.Queue):
		return p, errors.New("the name of the queue is none")
	case len(p.Filter) > maxFilter:
		return p, fmt.Errorf("the filter has %d bytes; %d are allowed", len(p.Filter), maxFilter)
	case len(form["id"]) > maxIDs:
		return p, fmt.Errorf("%d messages are marked; %d are allowed at once, or a filter", len(form["id"]), maxIDs)
	}
	for _, text := range form["id"] {
		id, err := readID(text)
		if err != nil {
			return p, err
		}
		p.IDs = append(p.IDs, id)
	}
	if p.Limit, err = whole(form, "limit", 0, 10_000_000); err != nil {
		return p, err
	}
	p.filter, err = filter.Parse(p.Filter, fields)
	return p, err
}

// meant tells whether it was said which.
func (p pick) meant() error {
	if len(p.IDs) == 0 && p.filter == nil && !p.All {
		return errors.New("nothing is marked; mark messages, or give a filter")
	}
	return nil
}

func (p pick) selection() operator.Selection {
	return operator.Selection{IDs: p.IDs, Filter: p.filter, Most: p.Limit}
}

// words say which messages are meant.
func (p pick) words() string {
	var out []string
	switch {
	case len(p.IDs) == 1:
		out = append(out, "the message "+p.IDs[0])
	case len(p.IDs) > 1:
		out = append(out, plural(len(p.IDs), "marked message", "marked messages"))
	}
	if p.Filter != "" {
		out = append(out, "those that match "+p.Filter)
	}
	if len(out) == 0 {
		out = append(out, "all")
	}
	if p.Limit > 0 {
		out = append(out, fmt.Sprintf("the first %s of them", count(p.Limit)))
	}
	return strings.Join(out, ", ")
}

// idParam is an id as a form can have it: one that a browser would change is quoted.
func idParam(id string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
	if strings.ContainsFunc(id, odd) || strings.HasPrefix(id, `"`) || strings.TrimSpace(id) != id {
		return strconv.QuoteToASCII(id)
	}
	return id
}

func readID(text string) (string, error) {
	if len(text) > 2000 {
		return "", errors.New("a message-id is too long to be one")
	}
	if strings.HasPrefix(text, `"`) {
		id, err := strconv.Unquote(text)
		if err != nil {
			return "", fmt.Errorf("the message-id %.40s is not one", text)
		}
		return id, nil
	}
	return text, nil
}

// whole reads a whole number within bounds; what is not given is 0.
func whole(form url.Values, name string, least, most int) (int, error) {
	text := strings.TrimSpace(form.Get(name))
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s is %.20q; it must be a whole number from %d to %d", name, text, least, most)
	}
	return n, nil
}
