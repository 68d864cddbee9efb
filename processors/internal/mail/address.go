package mail

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	netmail "net/mail"
	"slices"
	"strings"
	"unicode"
)

// A List is one address or several, in JSON a string or an array of them. What is neither is kept as a fault for
// addresses, which knows the name of the field.
type List struct {
	values []string
	fault  bool
}

// UnmarshalJSON reads any value.
func (l *List) UnmarshalJSON(value []byte) error {
	var one string
	if json.Unmarshal(value, &one) == nil && value[0] == '"' {
		l.values = []string{one}
	} else {
		l.fault = json.Unmarshal(value, &l.values) != nil
	}
	return nil
}

func (l *List) addresses(field string) ([]*netmail.Address, error) {
	if l.fault {
		return nil, fmt.Errorf("%s is neither an address nor a list of addresses: make it one", field)
	}
	var addresses []*netmail.Address
	for _, value := range l.values {
		a, err := parseAddress(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		addresses = append(addresses, a)
	}
	return addresses, nil
}

// parseAddress reads one address, with or without a name, that can be written into
// a header and an SMTP command as it is.
func parseAddress(value string) (*netmail.Address, error) {
	if err := singleLine(value); err != nil {
		return nil, fmt.Errorf("address %q %w", value, err)
	}
	a, err := netmail.ParseAddress(value)
	if err != nil {
		return nil, fmt.Errorf("%q is not an address such as ada@example.com or Ada <ada@example.com>; several are written as a list", value)
	}
	if err := plainText(a.Name); err != nil { // it may have been an encoded word
		return nil, fmt.Errorf("the name in address %q %w", value, err)
	}
	// An address that String has to quote may hold spaces and angle brackets, with
	// which it could say something else in a command.
	if (&netmail.Address{Address: a.Address}).String() != "<"+a.Address+">" || strings.ContainsFunc(a.Address, notPrintableASCII) {
		return nil, fmt.Errorf("address %q has quoted or non-ASCII characters, which not every server takes; write an international domain in its xn-- form", a.Address)
	}
	a.Name = collapsed(a.Name)
	return a, nil
}

// singleLine refuses what could end a header line.
func singleLine(value string) error {
	if i := strings.IndexFunc(value, unicode.IsControl); i >= 0 {
		return fmt.Errorf("has a control character (a line break or the like) at byte %d: remove it", i)
	}
	return nil
}

// plainText refuses also what a reader's program would take for an encoded word and
// show as something else: text is encoded here, and only once.
func plainText(value string) error {
	if err := singleLine(value); err != nil {
		return err
	}
	if decoded, err := new(mime.WordDecoder).DecodeHeader(value); err != nil || decoded != value {
		return errors.New("has an encoded word (=?...?=): give the text itself, Warren encodes it")
	}
	return nil
}

// collapsed makes each run of spaces one. go-mail folds a header at each space, and
// would fold a long run into an empty line, which ends the header.
func collapsed(value string) string { return strings.Join(strings.Fields(value), " ") }

func notPrintableASCII(r rune) bool { return r <= ' ' || r > '~' }

// senders are those that a message may name in place of the configured one.
type senders struct {
	any                bool
	addresses, domains []string
}

// parseSenders reads FROM_ALLOWED; see Config.
func parseSenders(value string, from *netmail.Address) (senders, error) {
	var s senders
	if from != nil {
		s.addresses = append(s.addresses, strings.ToLower(from.Address))
	}
	if strings.TrimSpace(value) == "" {
		return s, nil
	}
	for entry := range strings.SplitSeq(value, ",") {
		entry = strings.ToLower(strings.TrimSpace(entry))
		if entry == "*" {
			s.any = true
			continue
		}
		domain, isDomain := strings.CutPrefix(entry, "@")
		address := entry
		if isDomain {
			address = "any" + entry
		}
		if a, err := parseAddress(address); err != nil || a.Address != address {
			return s, fmt.Errorf("FROM_ALLOWED has %q: it is a comma-separated list of addresses such as billing@example.com, of @example.com for all of a domain, or *", entry)
		}
		if isDomain {
			s.domains = append(s.domains, domain)
		} else {
			s.addresses = append(s.addresses, address)
		}
	}
	return s, nil
}

func (s senders) allow(a *netmail.Address) bool {
	address := strings.ToLower(a.Address)
	domain := address[strings.LastIndexByte(address, '@')+1:]
	return s.any || slices.Contains(s.addresses, address) || slices.Contains(s.domains, domain)
}

// String lists them.
func (s senders) String() string {
	list := slices.Clone(s.addresses)
	for _, d := range s.domains {
		list = append(list, "@"+d)
	}
	return strings.Join(list, ", ")
}
