// Package webhook posts the body of each delivery to a URL.
//
// The body goes as it is, with the message's content type and encoding, or
// application/json if it has none. Beside these, a request has the headers
//
//	webhook-id         the message-id, the same at every attempt
//	webhook-timestamp  when this attempt began, in Unix seconds
//	webhook-signature  if there is a SECRET: see https://www.standardwebhooks.com
//	x-warren-queue     the queue
//	x-warren-attempt   1 is the first
//	x-warren-type      the message's type, if it has one
//	traceparent, tracestate, baggage
//
// and those of HEADERS. The status of the answer is the verdict:
//
//	2xx                 success
//	503                 the message is tried again, and no attempt is counted
//	408, 425, 429, 5xx  the message is tried again
//	any other           the message is dead-lettered; redirects are not followed
//
// Retry-After is honoured. If there is no connection (DNS, TCP, TLS), that is as 503: the
// receiver is down. If there is one, but no answer, the message is tried again. One
// attempt is one request. The body of the answer is the result; one of more than 1 MiB
// is left out.
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.opentelemetry.io/otel/propagation"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/result"
	"github.com/warrenmq/warren/processors/registry"
)

const (
	// connectTimeout bounds the making of a TCP connection, and the TLS handshake. All
	// that follows is bounded by the attempt's context.
	connectTimeout = 30 * time.Second
	// pingAfter is how long an HTTP/2 connection may be silent before it is asked for a
	// sign of life, and then until it counts as dead. Requests would otherwise go on
	// being sent into a connection that a firewall has forgotten.
	pingAfter = 10 * time.Second
	// dropAfter is how long a connection is kept for the next request.
	dropAfter = time.Minute
)

// Config is what a webhook processor is made from.
type Config struct {
	// URL is where to post to. A user and password in it are sent as basic
	// authentication. No part of it but the host is logged or traced: with some
	// services, whoever knows the path may post.
	URL string `envconfig:"URL" required:"true" secret:"true" example:"https://hooks.example.com/orders" desc:"Where to POST each body to: https://hooks.example.com/orders."`
	// Secret is one secret or several, separated by commas: every request is then
	// signed with each, so that its receiver can go over to the next.
	Secret string `envconfig:"SECRET" secret:"true" desc:"The secret to sign with as Standard Webhooks has it, whsec_ and base64; several, comma-separated, while receivers change from one to the next; not set, requests are not signed."`
	// Headers is a JSON object of strings.
	Headers string `envconfig:"HEADERS" secret:"true" desc:"More headers of each request, as a JSON object: {\"Authorization\": \"Bearer ...\"}."`
	// CA holds certificates in PEM form. Empty means the system's authorities.
	CA string `envconfig:"CA" desc:"The certificate of the authority to trust in place of the system's, in PEM form; CA_FILE=/path/ca.pem reads it from there."`
}

// Validate names every fault of c.
func (c *Config) Validate(q registry.Queue) error {
	_, err := c.processor(q)
	return err
}

// Open returns the processor of a queue. It is an [io.Closer], which closes the kept
// connections.
func (c *Config) Open(q registry.Queue, _ *slog.Logger) (consumer.Processor, error) {
	p, err := c.processor(q)
	if err != nil {
		return nil, err
	}
	return p, nil
}

var _ registry.Checker = (*Config)(nil)

// Check connects to the receiver, by TLS where the URL says so, and sends no request.
func (c *Config) Check(ctx context.Context, q registry.Queue) (string, error) {
	p, err := c.processor(q)
	if err != nil {
		return "", err
	}
	proxy, err := p.transport.Proxy(&http.Request{URL: p.url})
	if err != nil {
		return "", fmt.Errorf("the proxy of the environment cannot be used: %w; correct HTTP_PROXY and HTTPS_PROXY", err)
	}
	if proxy != nil {
		return "behind the proxy " + proxy.Host + ", through which nothing was looked at", nil
	}
	port := cmp.Or(p.url.Port(), map[string]string{"http": "80", "https": "443"}[p.url.Scheme])
	address := net.JoinHostPort(p.url.Hostname(), port)
	conn, err := p.transport.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", fmt.Errorf("connect to the receiver: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if p.url.Scheme != "https" {
		return address + " accepts connections", nil
	}
	secure := p.transport.TLSClientConfig.Clone()
	secure.ServerName = p.url.Hostname()
	if err := tls.Client(conn, secure).HandshakeContext(ctx); err != nil {
		return "", fmt.Errorf("TLS with %s: %w; correct the host in URL, or name the authority with CA", address, err)
	}
	return address + " accepts connections, and its certificate verifies", nil
}

func (c *Config) processor(q registry.Queue) (*processor, error) {
	p := &processor{transport: newTransport(q.Concurrency)}
	var faults [4]error
	p.url, faults[0] = parseURL(c.URL)
	p.signers, faults[1] = parseSecrets(c.Secret)
	p.header, faults[2] = parseHeaders(c.Headers)
	p.transport.TLSClientConfig.RootCAs, faults[3] = parseAuthorities(c.CA)
	if err := errors.Join(faults[:]...); err != nil {
		return nil, err
	}
	if user := p.url.User; user != nil && p.header.Get("Authorization") == "" {
		password, _ := user.Password()
		p.header.Set("Authorization", basicAuth(user.Username(), password))
	}
	p.secrets = newRedactor(c, p.url, p.header)
	p.header.Set("X-Warren-Queue", q.Name)
	return p, nil
}

func newTransport(concurrency int) *http.Transport {
	dialer := &net.Dialer{Timeout: connectTimeout}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: connectTimeout,
		MaxIdleConns:        concurrency,
		MaxIdleConnsPerHost: concurrency,
		// Without it, a request would connect anew whose own connection has just gone to
		// another that was still connecting.
		MaxConnsPerHost:    concurrency,
		IdleConnTimeout:    dropAfter,
		DisableCompression: true, // an answer is kept as it came
		Protocols:          new(http.Protocols),
		HTTP2:              &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter},
	}
	t.Protocols.SetHTTP1(true)
	t.Protocols.SetHTTP2(true)
	return t
}

type processor struct {
	url       *url.URL
	header    http.Header // of every request
	signers   []*standardwebhooks.Webhook
	transport *http.Transport
	secrets   *redactor
}

var (
	_ consumer.Processor = (*processor)(nil)
	_ io.Closer          = (*processor)(nil)
)

// Process posts the body of d. It blocks until the answer is there, or ctx ends.
func (p *processor) Process(ctx context.Context, d consumer.Delivery, scope *consumer.Scope) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, span := p.startSpan(ctx)
	defer span.End()
	request, err := p.request(ctx, &d)
	if err != nil {
		return consumer.Permanent(err)
	}
	var connected atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}
	// A RoundTripper follows no redirect, and its errors hold no URL.
	response, err := p.transport.RoundTrip(request.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		err = p.unanswered(ctx, err, connected.Load())
		failSpan(span, errorType(err), err)
		return err
	}
	defer func() { _ = response.Body.Close() }()
	endSpan(span, response)
	a := &answer{response, cancel}
	if response.StatusCode/100 != 2 {
		return p.refusal(a, time.Now())
	}
	if !scope.WantsResult() {
		a.drain()
		return nil
	}
	r, tooLong, err := a.result(d.ReplyTo != "")
	if err != nil {
		return fmt.Errorf("%s: %w", p.url.Host, err)
	}
	if tooLong {
		scope.Logger().Warn("the result is too long, it is left out", "limit_bytes", result.MaxBytes)
	}
	scope.SetResult(r)
	return nil
}

// request makes the request for d. It fails for what no header can hold.
func (p *processor) request(ctx context.Context, d *consumer.Delivery) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url.String(), bytes.NewReader(d.Body))
	if err != nil {
		return nil, errors.New("the request cannot be made of the URL") // which the error would show
	}
	// Without it the transport cannot send the body a second time: of a server that ends
	// connections or streams, it would try each of the kept ones, or one again and again.
	request.GetBody = nil
	request.Header = p.header.Clone()
	faulty := ""
	set := func(name, value string) {
		if strings.ContainsFunc(value, isControl) {
			faulty = name
		}
		request.Header.Set(name, value)
	}
	setDefault := func(name, value string) {
		if value != "" && request.Header.Get(name) == "" {
			set(name, value)
		}
	}
	setDefault("Content-Type", d.ContentType)
	setDefault("Content-Type", "application/json")
	setDefault("Content-Encoding", d.ContentEncoding)
	setDefault("User-Agent", "warren")
	setDefault("X-Warren-Type", d.Type)
	set("X-Warren-Attempt", strconv.Itoa(d.Attempt))

	now := time.Now()
	set(standardwebhooks.HeaderWebhookID, d.MessageID)
	set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	if faulty != "" {
		return nil, fmt.Errorf("the header %s cannot be sent: what the publisher has set has control characters in it", faulty)
	}
	signatures := make([]string, len(p.signers))
	for i, s := range p.signers {
		if signatures[i], err = s.Sign(d.MessageID, now, d.Body); err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
	}
	if len(signatures) > 0 {
		set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	}
	propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}).
		Inject(ctx, propagation.HeaderCarrier(request.Header))
	return request, nil
}

// Close closes the kept connections. No Process may be under way.
func (p *processor) Close() error {
	p.transport.CloseIdleConnections()
	return nil
}
