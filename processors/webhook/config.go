package webhook

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/warrenmq/warren/processors/internal/certs"
	"github.com/warrenmq/warren/processors/internal/strictjson"
)

// parseURL reads URL; see Config. No part of it reaches the error.
func parseURL(value string) (*url.URL, error) {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("URL is not of the form https://host/path or http://host/path; percent-encode reserved characters in user and password")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// Bounds of a secret, as Standard Webhooks has them.
const minSecretBytes, maxSecretBytes = 24, 64

// parseSecrets reads SECRET; see Config. No part of it reaches the error.
func parseSecrets(value string) ([]*standardwebhooks.Webhook, error) {
	if strings.TrimSpace(value) == "" {
		return nil, nil
	}
	var signers []*standardwebhooks.Webhook
	secrets := strings.Split(value, ",")
	for i, secret := range secrets {
		encoded, ok := strings.CutPrefix(strings.TrimSpace(secret), "whsec_")
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(key) < minSecretBytes || len(key) > maxSecretBytes {
			return nil, fmt.Errorf("SECRET: number %d of %d is not whsec_ and the base64 of %d to %d bytes; echo whsec_$(openssl rand -base64 32) makes one",
				i+1, len(secrets), minSecretBytes, maxSecretBytes)
		}
		signer, err := standardwebhooks.NewWebhookRaw(key)
		if err != nil {
			return nil, fmt.Errorf("SECRET: %w", err)
		}
		signers = append(signers, signer)
	}
	return signers, nil
}

// ours are the headers that cannot be among HEADERS: each message has its own, or the
// connection has.
var ours = []string{
	"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Traceparent", "Tracestate", "Baggage", "Idempotency-Key",
	"Host", "Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect",
}

// parseHeaders reads HEADERS; see Config. No value in it reaches the error.
func parseHeaders(value string) (http.Header, error) {
	header := make(http.Header)
	if value == "" {
		return header, nil
	}
	var values map[string]*string
	if err := strictjson.Decode([]byte(value), &values); err != nil || values == nil {
		return nil, errors.New(`HEADERS is not a JSON object of strings, such as {"Authorization": "Bearer ..."}`)
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case name == "" || strings.ContainsFunc(name, isNotToken):
			faults = append(faults, fmt.Errorf("HEADERS: %q is no name of a header; it may have letters, digits and hyphens", name))
		case slices.Contains(ours, canonical) || strings.HasPrefix(canonical, "X-Warren-"):
			faults = append(faults, fmt.Errorf("HEADERS: %s is set by Warren itself; leave it out", name))
		case values[name] == nil || strings.ContainsFunc(*values[name], isControl):
			faults = append(faults, fmt.Errorf("HEADERS: the value of %s is null, or has control characters in it", name))
		case header.Get(canonical) != "":
			faults = append(faults, fmt.Errorf("HEADERS: %s is there twice, in other letters", name))
		default:
			header.Set(canonical, *values[name])
		}
	}
	return header, errors.Join(faults...)
}

// isNotToken tells whether the name of a header cannot have r in it.
func isNotToken(r rune) bool {
	const others = "!#$%&'*+-.^_`|~"
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
}

// isControl tells whether the value of a header cannot have r in it.
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// parseAuthorities reads CA; see Config. Nil means those of the system.
func parseAuthorities(pem string) (*x509.CertPool, error) {
	if pem == "" {
		return nil, nil
	}
	pool, err := certs.Pool([]byte(pem))
	if err != nil {
		return nil, fmt.Errorf("CA %w; to name a file, set CA_FILE", err)
	}
	return pool, nil
}

func basicAuth(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// shortestSecret is the fewest bytes that are taken for a secret: what is shorter
// stands in too many answers by chance.
const shortestSecret = 6

// A redactor takes secrets out of an answer. Some servers answer with the request that they
// did not like.
type redactor struct {
	secrets  []string // the longest first: it counts
	replacer *strings.Replacer
}

func newRedactor(c *Config, u *url.URL, header http.Header) *redactor {
	secrets := strings.FieldsFunc(c.Secret, func(r rune) bool { return r == ',' || r == ' ' })
	for _, values := range header {
		for _, value := range values {
			secrets = append(secrets, value)
			secrets = append(secrets, strings.Fields(value)...) // Bearer, and the token
		}
	}
	password, _ := u.User.Password()
	secrets = append(secrets, u.String(), u.RequestURI(), u.RawQuery, u.User.Username(), password)
	for _, values := range u.Query() {
		secrets = append(secrets, values...)
	}
	for _, path := range []string{u.Path, u.EscapedPath()} {
		for _, path := range []string{path, strings.TrimPrefix(path, "/")} {
			secrets = append(secrets, path, strings.ReplaceAll(path, "/", `\/`)) // as some write it in JSON
		}
		secrets = append(secrets, strings.Split(path, "/")...)
	}
	secrets = slices.DeleteFunc(secrets, func(s string) bool { return len(s) < shortestSecret || s == "Bearer" })
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range secrets {
		pairs = append(pairs, s, "[secret]")
	}
	return &redactor{secrets, strings.NewReplacer(pairs...)}
}

// redacted returns text without the secrets; and, if it was cut off, without the beginning of
// one at its end.
func (r *redactor) redacted(text string, isCut bool) string {
	for isCut {
		whole := len(text)
		for _, s := range r.secrets {
			for n := min(len(s)-1, len(text)); n > 0; n-- {
				if before, found := strings.CutSuffix(text, s[:n]); found {
					text = before
					break
				}
			}
		}
		isCut = len(text) < whole // what was dropped may have been the end of another one, too
	}
	return r.replacer.Replace(text)
}
