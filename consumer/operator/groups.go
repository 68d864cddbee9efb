package operator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A Group are the dead letters of one cause.
type Group struct {
	ID     string    `json:"group"`
	Count  int       `json:"count"`
	Reason string    `json:"reason"`
	Error  string    `json:"error"` // without what is of one message alone
	First  time.Time `json:"first,omitzero"`
	Last   time.Time `json:"last,omitzero"`
	Sample string    `json:"sample"` // the id of the latest
}

// maxGroups bounds the memory that groups take. What comes after so many is in one.
const maxGroups = 10_000

// maxReasonBytes is how much a group says of a reason, which is a word unless somebody else has
// written it.
const maxReasonBytes = 100

// Groups puts the dead letters of a work queue into groups, the largest first.
func (b Broker) Groups(ctx context.Context, queue string, which Selection) ([]Group, Looked, error) {
	groups := make(map[string]*Group)
	looked, err := b.Letters(ctx, queue, which, func(l *Letter) error {
		g := groups[l.Group]
		if g == nil && len(groups) >= maxGroups {
			l.Group, l.Reason, l.cause = "others", "", "(others, of more than 10,000 groups)"
			g = groups[l.Group]
		}
		if g == nil {
			g = &Group{ID: l.Group, Reason: broker.Shortened(l.Reason, maxReasonBytes), Error: broker.Shortened(l.cause, maxErrorBytes), First: l.DeadAt}
			groups[l.Group] = g
		}
		g.Count++
		if l.DeadAt.Before(g.First) {
			g.First = l.DeadAt
		}
		if !l.DeadAt.Before(g.Last) {
			g.Last, g.Sample = l.DeadAt, strings.Clone(l.ID)
		}
		return nil
	})
	all := make([]Group, 0, len(groups))
	for _, g := range groups {
		all = append(all, *g)
	}
	slices.SortFunc(all, func(a, b Group) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, looked, err
}

// fingerprint names a group.
func fingerprint(reason, cause string) string {
	sum := sha256.Sum256([]byte(reason + "\x00" + cause))
	return hex.EncodeToString(sum[:4])
}

// What an error says of one message alone, the longest first. What has none of the characters
// that a pattern needs is not tried with it.
var individual = []struct {
	needs   string
	pattern *regexp.Regexp
	with    string
}{
	{`"`, regexp.MustCompile(`"(?:[^"\\]|\\.)*"`), `"*"`},
	{"'", regexp.MustCompile(`(^|[\s(=:,])'[^']*'`), `$1'*'`},
	{"`", regexp.MustCompile("`[^`]*`"), "`*`"},
	{"@", regexp.MustCompile(`<[^<>\s]+@[^<>\s]+>|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+`), "<mail>"},
	{"-", regexp.MustCompile(`\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b`), "<id>"},
	{".[", regexp.MustCompile(`\[[0-9a-fA-F:]*:[0-9a-fA-F:]*\](?::\d+)?|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b`), "<address>"},
	{":", regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?`), "<time>"},
	{"0123456789", regexp.MustCompile(`\b0x[0-9a-fA-F]+\b|\b(?:[A-Za-z_]*\d[A-Za-z0-9_]{11,}|[A-Za-z_]{2,}\d[A-Za-z0-9_]{5,})\b`), "<id>"},
}

var (
	numbers = regexp.MustCompile(`([A-Za-z]+:? |\(|^)?\b(\d{1,3})\b|\d+`)
	more    = regexp.MustCompile(`<n>(?:[.,]<n>)+`)
	// What a code stands after.
	before = regexp.MustCompile(`(?i)^(?:status|code|http|answered|error):? $`)
)

// Cause is the text of an error without what it says of one message alone: quoted texts,
// numbers, ids and addresses.
func Cause(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	for _, r := range individual {
		if strings.ContainsAny(text, r.needs) {
			text = r.pattern.ReplaceAllString(text, r.with)
		}
	}
	var out strings.Builder
	last := 0
	for _, m := range numbers.FindAllStringSubmatchIndex(text, -1) {
		out.WriteString(text[last:m[0]])
		last = m[1]
		lead, digits := "", ""
		if m[2] >= 0 {
			lead = text[m[2]:m[3]]
		}
		if m[4] >= 0 {
			digits = text[m[4]:m[5]]
		}
		isCode := len(digits) == 3 && (lead == "" && m[0] == 0 || lead == "(") || digits != "" && before.MatchString(lead)
		if out.WriteString(lead); isCode {
			out.WriteString(digits)
		} else {
			out.WriteString("<n>")
		}
	}
	out.WriteString(text[last:])
	return strings.Join(strings.Fields(more.ReplaceAllString(out.String(), "<n>")), " ")
}
