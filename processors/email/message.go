package email

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	netmail "net/mail"
	"strings"
	"unicode"
)

// A message is the body of a delivery.
type message struct {
	To          list           `json:"to"`
	Cc          list           `json:"cc"`
	Bcc         list           `json:"bcc"`
	From        string         `json:"from"`
	ReplyTo     list           `json:"reply_to"`
	Subject     string         `json:"subject"`
	Template    string         `json:"template"`
	Data        map[string]any `json:"data"`
	Text        string         `json:"text"`
	HTML        string         `json:"html"`
	Attachments []attachment   `json:"attachments"`
}

type attachment struct {
	Name        string `json:"name"`
	ContentType string `json:"content_type"` // empty: by the name
	Content     []byte `json:"content"`
}

const (
	messageFields = "to, cc, bcc, from, reply_to, subject, template, data, text, html, attachments [name, content_type, content]"

	maxSubjectBytes = 900 // unfolded, it must fit into the 998 bytes of a line
	maxNameBytes    = 255
)

// UnmarshalJSON refuses fields that there are not: a mail must not go out without
// its attachment because of a slip in a name.
func (m *message) UnmarshalJSON(body []byte) error {
	type plain message // without this method
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	if err := dec.Decode((*plain)(m)); err != nil {
		return fmt.Errorf("%w; the fields are %s", err, messageFields)
	}
	for key, v := range m.Data {
		m.Data[key] = withNumbers(v)
	}
	return nil
}

// withNumbers replaces the numbers of v, in place, by int64 where they are whole,
// and by float64 otherwise: as float64, an order 12345678 would be printed by a
// template as 1.2345678e+07.
func withNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String() // a number beyond float64, as it was written
	case []any:
		for i := range v {
			v[i] = withNumbers(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = withNumbers(v[key])
		}
	}
	return v
}

// A list is one string or several. What is neither is kept as a fault for
// addresses, which knows the name of the field.
type list struct {
	values []string
	fault  bool
}

func (l *list) UnmarshalJSON(value []byte) error {
	var one string
	if json.Unmarshal(value, &one) == nil && value[0] == '"' {
		l.values = []string{one}
	} else {
		l.fault = json.Unmarshal(value, &l.values) != nil
	}
	return nil
}

func (l *list) addresses(field string) ([]*netmail.Address, error) {
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
