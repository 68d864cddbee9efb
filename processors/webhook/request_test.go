package webhook_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"golang.org/x/net/http2"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/registry"
	"github.com/warrenmq/warren/processors/webhook"
)

func secretOf(b byte) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(b), 32)))
}

// A received request, as its server saw it.
type received struct {
	*http.Request
	body []byte
}

// receive makes the processor of cfg, has it post d, and returns the request.
func receive(t *testing.T, cfg webhook.Config, d consumer.Delivery) received {
	t.Helper()
	requests := make(chan received, 1)
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- received{r, body}
	})
	cfg.URL = strings.Replace(cfg.URL, "SERVER", strings.TrimPrefix(url, "http://"), 1)
	if cfg.URL == "" {
		cfg.URL = url
	}
	if _, err := consumertest.Run(t.Context(), newProcessor(t, cfg), d); err != nil {
		t.Fatalf("the webhook failed: %v", err)
	}
	return <-requests
}

func TestRequestCarriesTheMessage(t *testing.T) {
	body := []byte("\x00binary\xff")
	r := receive(t, webhook.Config{URL: "http://SERVER/orders/new?tenant=a%20b#top"}, consumer.Delivery{
		MessageID: "order-17", Attempt: 3, Type: "order.created", ContentType: "application/x-thing", ContentEncoding: "zstd", Body: body,
	})
	if r.Method != http.MethodPost || r.RequestURI != "/orders/new?tenant=a%20b" || string(r.body) != string(body) || r.ContentLength != int64(len(body)) {
		t.Errorf("got %s %s with %q of length %d", r.Method, r.RequestURI, r.body, r.ContentLength)
	}
	if sent, err := strconv.ParseInt(r.Header.Get("Webhook-Timestamp"), 10, 64); err != nil || time.Since(time.Unix(sent, 0)).Abs() > 4*time.Minute {
		t.Errorf("webhook-timestamp is %q, want about now", r.Header.Get("Webhook-Timestamp"))
	}
	r.Header.Del("Webhook-Timestamp")
	got := make(map[string]string)
	for name := range r.Header {
		got[name] = strings.Join(r.Header[name], "|")
	}
	want := map[string]string{
		"Webhook-Id": "order-17", "X-Warren-Queue": "orders", "X-Warren-Attempt": "3", "X-Warren-Type": "order.created",
		"Content-Type": "application/x-thing", "Content-Encoding": "zstd", "Content-Length": strconv.Itoa(len(body)), "User-Agent": "warren",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got the headers %v, want %v", got, want)
	}
}

func TestRequestOfABareMessage(t *testing.T) {
	r := receive(t, webhook.Config{}, consumer.Delivery{})
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("got %q, want application/json", got)
	}
	if r.Header.Get("Content-Length") != "0" || len(r.TransferEncoding) != 0 {
		t.Errorf("got the length %q and %q, want 0", r.Header.Get("Content-Length"), r.TransferEncoding)
	}
}

func TestHeadersAreAdded(t *testing.T) {
	cfg := webhook.Config{URL: "http://ada:s3cret@SERVER/", Headers: `{"X-Tenant": "a", "content-type": "text/plain", "User-Agent": "shop"}`}
	r := receive(t, cfg, consumer.Delivery{ContentType: "application/json"})
	user, password, _ := r.BasicAuth()
	if user != "ada" || password != "s3cret" || r.Header.Get("X-Tenant") != "a" || r.Header.Get("Content-Type") != "text/plain" || r.Header.Get("User-Agent") != "shop" {
		t.Errorf("got %v", r.Header)
	}
	cfg.Headers = `{"Authorization": "Bearer token"}`
	if got := receive(t, cfg, consumer.Delivery{}).Header.Get("Authorization"); got != "Bearer token" {
		t.Errorf("got the Authorization %q, want that of HEADERS", got)
	}
}

func TestSignatureIsThatOfStandardWebhooks(t *testing.T) {
	body := []byte(`{"order": 17}`)
	r := receive(t, webhook.Config{Secret: secretOf('a') + ", " + secretOf('b')}, consumer.Delivery{MessageID: "order-17", Body: body})
	if got := len(strings.Fields(r.Header.Get("Webhook-Signature"))); got != 2 {
		t.Errorf("%d signatures, want one for each of 2 secrets", got)
	}
	for secret, valid := range map[string]bool{secretOf('a'): true, secretOf('b'): true, secretOf('c'): false} {
		verifier, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifier.Verify(r.body, r.Header); (err == nil) != valid {
			t.Errorf("with the secret %s: %v, want valid: %t", secret, err, valid)
		}
		if err := verifier.Verify(append(r.body, ' '), r.Header); err == nil {
			t.Error("a changed body is valid, too")
		}
	}
}

func TestWhatNoHeaderCanHoldIsDead(t *testing.T) {
	url := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	for name, d := range map[string]consumer.Delivery{
		"webhook-id":       {MessageID: "a\r\nX-Admin: 1"},
		"Content-Type":     {ContentType: "a\nb"},
		"Content-Encoding": {ContentEncoding: "a\x00b"},
		"X-Warren-Type":    {Type: "a\x7fb"},
	} {
		_, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: url}), d)
		if got := consumertest.Verdict(err); got != "dead" {
			t.Errorf("%s: verdict %s, want dead", name, got)
		}
		wantError(t, err, name, "control characters")
	}
}

// TestConnectionsAreUsedAgain sends many requests side by side, of which every third is
// refused, and each answered at length. A connection whose writer does not get to run for
// 50 ms after its request has been answered is not used again, so that there may be some
// more than 8 on a busy machine; if those that are refused were lost, there would be 70.
func TestConnectionsAreUsedAgain(t *testing.T) {
	var requests, connections atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1)%3 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(make([]byte, 50<<10))
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	p := newProcessor(t, webhook.Config{URL: s.URL})
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for range 25 {
				_, err := consumertest.Run(t.Context(), p, consumer.Delivery{})
				if got := consumertest.Verdict(err); got == "dead" {
					t.Errorf("verdict %s (%v)", got, err)
				}
			}
		})
	}
	workers.Wait()
	if connections.Load() > 32 || requests.Load() != 200 {
		t.Errorf("%d requests over %d connections, want 200 over about 8", requests.Load(), connections.Load())
	}
}

// TestOneAttemptIsOneRequest has the server close the connection once it has a request,
// while others are kept: the transport would try each of them.
func TestOneAttemptIsOneRequest(t *testing.T) {
	const kept = 8
	var requests atomic.Int64
	warm, closing := make(chan struct{}), make(chan struct{})
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n := requests.Add(1)
		select {
		case <-closing:
			panic(http.ErrAbortHandler)
		default:
		}
		if n == kept {
			close(warm)
		}
		<-warm
	})
	p := newProcessor(t, webhook.Config{URL: url})
	var workers sync.WaitGroup
	for range kept {
		workers.Go(func() {
			if _, err := consumertest.Run(t.Context(), p, consumer.Delivery{Body: []byte("body")}); err != nil {
				t.Error(err)
			}
		})
	}
	workers.Wait()
	close(closing)
	for _, body := range []string{"body", "", "again"} {
		before := requests.Load()
		_, err := consumertest.Run(t.Context(), p, consumer.Delivery{Body: []byte(body)})
		if got, n := consumertest.Verdict(err), requests.Load()-before; got != "retry" || n != 1 {
			t.Errorf("body %q: verdict %s after %d requests (%v), want retry after one", body, got, n, err)
		}
	}
}

// TestOneAttemptIsOneStream has the server end each stream of HTTP/2 in the ways that the
// transport takes for an invitation to send the request once more.
func TestOneAttemptIsOneStream(t *testing.T) {
	for _, code := range []http2.ErrCode{http2.ErrCodeProtocol, http2.ErrCodeRefusedStream, http2.ErrCodeInternal} {
		var streams atomic.Int64
		s := httptest.NewUnstartedServer(nil)
		s.TLS = &tls.Config{NextProtos: []string{"h2"}}
		s.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){"h2": func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
			_, _ = io.ReadFull(conn, make([]byte, len(http2.ClientPreface)))
			framer := http2.NewFramer(conn, conn)
			_ = framer.WriteSettings()
			for {
				frame, err := framer.ReadFrame()
				if err != nil {
					return
				}
				if _, ok := frame.(*http2.HeadersFrame); ok {
					streams.Add(1)
					_ = framer.WriteRSTStream(frame.Header().StreamID, code)
				}
			}
		}}
		s.StartTLS()
		ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
		p := newProcessor(t, webhook.Config{URL: s.URL, CA: ca})
		_, err := consumertest.Run(t.Context(), p, consumer.Delivery{Body: []byte("body")})
		if got := consumertest.Verdict(err); got != "retry" || streams.Load() != 1 {
			t.Errorf("%v: verdict %s after %d requests (%v), want retry after one", code, got, streams.Load(), err)
		}
		_ = p.(io.Closer).Close()
		s.Close()
	}
}

func TestHTTP2OverTLS(t *testing.T) {
	protocols := make(chan string, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { protocols <- r.Proto }))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	if _, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: s.URL, CA: ca}), consumer.Delivery{}); err != nil {
		t.Fatal(err)
	}
	if got := <-protocols; got != "HTTP/2.0" {
		t.Errorf("got %s, want HTTP/2.0", got)
	}

	_, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: s.URL}), consumer.Delivery{})
	if got := consumertest.Verdict(err); got != "unavailable" {
		t.Errorf("without the authority: verdict %s, want unavailable", got)
	}
	wantError(t, err, "does not verify", "CA_FILE")
}

// TestTheRemediesOfAWebhookCure follows what each error says that a request ends with.
func TestTheRemediesOfAWebhookCure(t *testing.T) {
	moved := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/new" {
			http.Redirect(w, r, "/new", http.StatusPermanentRedirect)
		}
	})
	private := httptest.NewUnstartedServer(answering(200, ""))
	private.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	private.StartTLS()
	t.Cleanup(private.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: private.Certificate().Raw}))
	for _, c := range []struct {
		remedy       string
		wrong, right webhook.Config
	}{
		{"redirects are not followed, set URL to where it leads", webhook.Config{URL: moved + "/old"}, webhook.Config{URL: moved + "/new"}},
		{"name the authority that signed it with CA_FILE", webhook.Config{URL: private.URL}, webhook.Config{URL: private.URL, CA: ca}},
	} {
		_, err := consumertest.Run(t.Context(), newProcessor(t, c.wrong), consumer.Delivery{})
		wantError(t, err, c.remedy)
		if _, err := consumertest.Run(t.Context(), newProcessor(t, c.right), consumer.Delivery{}); err != nil {
			t.Errorf("%s, followed: got error %v", c.remedy, err)
		}
	}
}

func TestFaultsOfConfig(t *testing.T) {
	const secret = "hunter2hunter2"
	for _, test := range []struct {
		cfg  webhook.Config
		want []string
	}{
		{webhook.Config{}, []string{"URL is not of the form"}},
		{webhook.Config{URL: "hooks.example.com/" + secret}, []string{"URL is not of the form"}},
		{webhook.Config{URL: "ftp://u:" + secret + "@h"}, []string{"URL is not of the form"}},
		{webhook.Config{URL: "https://u:" + secret + "%zz@h"}, []string{"URL is not of the form"}},
		{webhook.Config{URL: "https:///" + secret}, []string{"URL is not of the form"}},
		{webhook.Config{URL: "http://h", Secret: secret}, []string{"SECRET: number 1 of 1 is not whsec_", "openssl rand"}},
		{webhook.Config{URL: "http://h", Secret: "whsec_" + secret}, []string{"SECRET: number 1 of 1"}},
		{webhook.Config{URL: "http://h", Secret: secretOf('a') + ",whsec_AAAA"}, []string{"SECRET: number 2 of 2"}},
		{webhook.Config{URL: "http://h", Secret: secretOf('a') + ","}, []string{"SECRET: number 2 of 2"}},
		{webhook.Config{URL: "http://h", Headers: "Authorization: " + secret}, []string{"HEADERS is not a JSON object of strings"}},
		{webhook.Config{URL: "http://h", Headers: `["` + secret + `"]`}, []string{"HEADERS is not a JSON object of strings"}},
		{webhook.Config{URL: "http://h", Headers: `{"A": {"b": "` + secret + `"}}`}, []string{"HEADERS is not a JSON object of strings"}},
		{webhook.Config{URL: "http://h", Headers: "null"}, []string{"HEADERS is not a JSON object of strings"}},
		{webhook.Config{URL: "http://h", Headers: `{"A": "b"} {"c": "d"}`}, []string{"HEADERS is not a JSON object of strings"}},
		{webhook.Config{URL: "http://h", Headers: `{"a b": "` + secret + `", "Webhook-ID": "1", "x-warren-queue": "q", "X-B": "` + secret + `\n", "c": "1", "C": "2", "d": null}`},
			[]string{`"a b" is no name of a header`, "Webhook-ID is set by Warren", "x-warren-queue is set by Warren", "the value of X-B", "c is there twice", "the value of d"}},
		{webhook.Config{URL: "http://h", CA: "/etc/ca.pem"}, []string{"CA has no certificate", "CA_FILE"}},
		{webhook.Config{Secret: secret, Headers: "{", CA: "x"}, []string{"URL is not", "SECRET: number 1", "HEADERS is not", "CA has no"}},
	} {
		err := test.cfg.Validate(registry.Queue{Name: "orders", Concurrency: 1})
		if err == nil {
			t.Errorf("Validate of %+v found no fault", test.cfg)
			continue
		}
		wantError(t, err, slices.Concat(test.want, []string{"not", secret})...)
	}
}
