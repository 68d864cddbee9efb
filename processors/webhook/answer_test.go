package webhook_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/webhook"
)

func TestStatusDecides(t *testing.T) {
	for status, verdict := range map[int]string{
		200: "ack", 201: "ack", 202: "ack", 204: "ack", 226: "ack",
		300: "dead", 301: "dead", 302: "dead", 304: "dead", 307: "dead", 308: "dead",
		400: "dead", 401: "dead", 403: "dead", 404: "dead", 405: "dead", 409: "dead", 410: "dead", 413: "dead", 422: "dead", 499: "dead",
		408: "retry", 425: "retry", 429: "retry",
		500: "retry", 501: "retry", 502: "retry", 503: "unavailable", 504: "retry", 599: "retry",
		600: "dead", 999: "dead",
	} {
		var body string
		if status != 204 && status != 304 {
			body = "no such  order\r\n"
		}
		server := serve(t, answering(status, body, "Location", "/elsewhere"))
		_, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: server}), consumer.Delivery{})
		if got := consumertest.Verdict(err); got != verdict {
			t.Errorf("%d: verdict %s, want %s", status, got, verdict)
		}
		if verdict == "ack" {
			continue
		}
		want := strings.TrimPrefix(server, "http://") + " answered " + strconv.Itoa(status)
		if text := http.StatusText(status); text != "" {
			want += " " + text
		}
		if body != "" {
			want += ": no such order"
		}
		if status/100 == 3 {
			want += "; redirects are not followed, set URL to where it leads"
		}
		if err.Error() != want {
			t.Errorf("%d: error %q, want %q", status, err, want)
		}
	}
}

func TestResultIsTheAnswer(t *testing.T) {
	for _, test := range []struct {
		name        string
		handler     http.HandlerFunc
		contentType string
		body        string
	}{
		{"json", answering(200, `{"ok": true}`, "Content-Type", "application/json; charset=utf-8"), "application/json; charset=utf-8", `{"ok": true}`},
		{"binary", answering(200, "\x00\xff", "Content-Type", "image/x-thing"), "image/x-thing", "\x00\xff"},
		{"nothing", answering(204, ""), "", ""},
		{"no property", answering(200, "x", "Content-Type", "text/"+strings.Repeat("x", 300)), "application/octet-stream", "x"},
		{"as much as may be", answering(200, strings.Repeat("x", 1<<20), "Content-Type", "text/plain"), "text/plain", strings.Repeat("x", 1<<20)},
	} {
		p := newProcessor(t, webhook.Config{URL: serve(t, test.handler)})
		result, err := consumertest.Run(t.Context(), p, consumer.Delivery{ReplyTo: "answers"})
		if err != nil || result.ContentType != test.contentType || string(result.Body) != test.body {
			t.Errorf("%s: got %.40q of %s and the error %v, want %.40q of %s", test.name, result.Body, result.ContentType, err, test.body, test.contentType)
		}
	}
}

func TestHugeAnswer(t *testing.T) {
	p := newProcessor(t, webhook.Config{URL: serve(t, answering(200, strings.Repeat("x", 1<<20+1)))})
	got, err := consumertest.Run(t.Context(), p, consumer.Delivery{ReplyTo: "answers"})
	if err != nil || got.ContentType != "application/problem+json" || !strings.Contains(string(got.Body), "longer than 1048576 bytes") {
		t.Errorf("with reply-to: got %.200s of %s and the error %v, want success and a result that says why there is none", got.Body, got.ContentType, err)
	}

	endless := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	})
	start := time.Now()
	if _, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: endless}), consumer.Delivery{}); err != nil || time.Since(start) > 3*time.Minute {
		t.Errorf("endless answer that nobody wants: %v after %v, want success at once", err, time.Since(start))
	}
}

func TestTruncatedAnswer(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "only so much")
	})
	_, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: server}), consumer.Delivery{ReplyTo: "answers"})
	if got := consumertest.Verdict(err); got != "retry" {
		t.Errorf("with reply-to: verdict %s, want retry", got)
	}
	wantError(t, err, "broke off", "reply-to")
	if _, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: server}), consumer.Delivery{}); err != nil {
		t.Errorf("without reply-to: %v, want success: the server has said 200", err)
	}
}

// TestAnswerThatStallsAfterItsStatus has the server keep the rest of its answer back:
// the verdict stands, and no slot waits for it.
func TestAnswerThatStallsAfterItsStatus(t *testing.T) {
	for status, verdict := range map[int]string{200: "ack", 500: "retry"} {
		stalled := make(chan struct{})
		server := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-stalled:
			case <-r.Context().Done():
			}
		})
		start := time.Now()
		_, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: server}), consumer.Delivery{})
		if got, took := consumertest.Verdict(err), time.Since(start); got != verdict || took > 3*time.Minute {
			t.Errorf("%d: verdict %s (%v) after %v, want %s after a second", status, got, err, took, verdict)
		}
		if status == 500 {
			wantError(t, err, "500 Internal Server Error: begun")
		}
		close(stalled)
	}
}

// TestServerThatHangs has the attempt's time pass once the server has the request.
func TestServerThatHangs(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel(consumer.ErrTimeout)
		<-r.Context().Done()
	})
	_, err := consumertest.Run(ctx, newProcessor(t, webhook.Config{URL: server}), consumer.Delivery{})
	if !errors.Is(err, consumer.ErrTimeout) || consumertest.Verdict(err) != "retry" {
		t.Errorf("error %v and verdict %s, want %v and retry", err, consumertest.Verdict(err), consumer.ErrTimeout)
	}
	wantError(t, err, "no answer from 127.0.0.1")
}

// TestNoAnswer: what goes wrong before the request is sent costs no attempt. After that,
// the server may have been at work, and this message may be what it fails at.
func TestNoAnswer(t *testing.T) {
	const secret = "hunter2hunter2"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := l.Addr().String() // the kernel accepts
	t.Cleanup(func() { _ = l.Close() })
	closed := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	hangsUp := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for name, test := range map[string]struct {
		url, verdict, want string
		timeout            time.Duration
	}{
		"nobody listens": {"http://u:" + secret + "@" + closed() + "/" + secret, "unavailable", "connection refused", time.Minute},
		"no such host":   {"http://warren.invalid/?token=" + secret, "unavailable", "warren.invalid", time.Minute},
		"hangs up":       {hangsUp + "/" + secret, "retry", "EOF", time.Minute},
		"no TLS":         {strings.Replace(hangsUp, "http:", "https:", 1) + "/" + secret, "unavailable", "TLS handshake", time.Minute},
		"no handshake":   {"https://" + silent + "/" + secret, "unavailable", consumer.ErrTimeout.Error(), 50 * time.Millisecond},
	} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), test.timeout, consumer.ErrTimeout)
		_, err := consumertest.Run(ctx, newProcessor(t, webhook.Config{URL: test.url}), consumer.Delivery{Body: []byte("body")})
		cancel()
		if got := consumertest.Verdict(err); got != test.verdict {
			t.Errorf("%s: verdict %s, want %s", name, got, test.verdict)
		}
		wantError(t, err, "no answer from ", test.want, "not", secret)
	}
}

// TestUnavailableHonoursRetryAfter has a server in maintenance say until when.
func TestUnavailableHonoursRetryAfter(t *testing.T) {
	p := newProcessor(t, webhook.Config{URL: serve(t, answering(503, "", "Retry-After", "120"))})
	_, err := consumertest.Run(t.Context(), p, consumer.Delivery{})
	if want := consumer.Unavailable(consumer.RetryAfter(errors.New(err.Error()), 2*time.Minute)); !reflect.DeepEqual(err, want) {
		t.Errorf("got %#v, want %#v", err, want)
	}
}

// TestSecretsStayOutOfErrors has the server answer with the request that it refuses.
func TestSecretsStayOutOfErrors(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, r.RequestURI+" "+r.URL.Query().Get("key")+" "+r.Header.Get("Authorization")+" "+r.Header.Get("X-Api-Key")+" for orders")
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	_, err = consumertest.Run(t.Context(), newProcessor(t, webhook.Config{
		URL:     "http://ada:hunter2hunter2@" + u.Host + "/T0PSECRET?key=s3cret%2Fkey",
		Headers: `{"X-Api-Key": "0123456789"}`,
	}), consumer.Delivery{Body: []byte("orders")})
	wantError(t, err, "400 Bad Request", "for orders", "not", "T0PSECRET", "s3cret", "hunter2", "0123456789", "YWRhOmh1bnRlcjI")
}

// TestPathStaysOutOfErrors has the server answer with parts of the URL, as frameworks do.
func TestPathStaysOutOfErrors(t *testing.T) {
	for name, answer := range map[string]string{
		"the path alone, as Express has it": "Cannot POST /hooks/T0P%20SECRET/orders",
		"decoded":                           "no /hooks/T0P SECRET/orders here",
		"without the first slash":           "no route for hooks/T0P%20SECRET/orders",
		"escaped as JSON":                   `{"path": "\/hooks\/T0P%20SECRET\/orders"}`,
		"a segment":                         "unknown key T0P%20SECRET",
		"a segment, decoded":                `{"key": "T0P SECRET"}`,
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, answering(404, answer))
			_, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: server + "/hooks/T0P%20SECRET/orders?key=s3cretkey"}), consumer.Delivery{})
			wantError(t, err, "404 Not Found", "[secret]", "not", "T0P", "SECRET")
		})
	}
}

// TestSecretsAtTheEndOfWhatIsRead has what is not shown before a secret, so that what is read of
// the answer ends in it, and all of that is shown.
func TestSecretsAtTheEndOfWhatIsRead(t *testing.T) {
	const secret = "hunter2-hunter3-hunter4 abcdefghijklmnopqrst" // its beginning is part of no address
	for _, padding := range []string{" ", "\x00"} {
		for _, before := range []int{4799, 4790, 4780, 4770, 4760} {
			server := serve(t, answering(400, "no"+strings.Repeat(padding, before-2)+secret+" and more"))
			_, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: server, Headers: `{"X-Api-Key": "` + secret + `"}`}), consumer.Delivery{})
			wantError(t, err, "400 Bad Request: no", "not", "hu", "abc")
		}
	}
	breaksOff := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "no hunter2-hunter3-hunter4 abcdef")
	})
	_, err := consumertest.Run(t.Context(), newProcessor(t, webhook.Config{URL: breaksOff, Headers: `{"X-Api-Key": "` + secret + `"}`}), consumer.Delivery{})
	wantError(t, err, "400 Bad Request: no", "not", "hu", "abc")
}

func TestAnswerInTheErrorIsShortAndClean(t *testing.T) {
	p := newProcessor(t, webhook.Config{URL: serve(t, answering(400, "<p>\n\x1b[31mno\xff\x00\u009b\u202e "+strings.Repeat("ä", 5000)))})
	_, err := consumertest.Run(t.Context(), p, consumer.Delivery{})
	wantError(t, err, "<p> [31mno\uFFFD ää", "...", "not", "\n", "\x1b", "\x00", "\u009b", "\u202e")
	if n := len(err.Error()); n > 400 {
		t.Errorf("the error has %d bytes, want 400 at most", n)
	}
}

func TestAnswersOfAnyBytes(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	p := newProcessor(t, webhook.Config{URL: s.URL, Headers: `{"X-Api-Key": "0123456789"}`})
	for _, body := range [][]byte{nil, {0}, bytes.Repeat([]byte{0xff}, 4000), bytes.Repeat([]byte("0123456789"), 2000)} {
		_, err := consumertest.Run(t.Context(), p, consumer.Delivery{Body: body})
		wantError(t, err, "400 Bad Request", "not", "0123456789", "\x00")
	}
}
