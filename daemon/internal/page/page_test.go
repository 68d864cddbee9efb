package page

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/logtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

func TestMain(m *testing.M) { rabbittest.Main(m) }

var tokens = Tokens{View: "view-0123456789abcdef", Operate: "operate-0123456789abcdef", Admin: "admin-0123456789abcdef"}

var errNoBroker = errors.New("no broker in this test")

// A visitor is a browser, so far as these tests need one.
type visitor struct {
	t      *testing.T
	page   http.Handler
	cookie *http.Cookie
}

// newPage makes a page whose log is written to log.
func newPage(t *testing.T, change func(*Config)) (*Page, *logtest.Buffer) {
	t.Helper()
	cfg := Config{
		Program: "warren", Version: "v1", Tokens: tokens, Addr: "127.0.0.1:9466", Archives: t.TempDir() + "/discarded",
		Nodes: func() ([]string, error) { return nil, errNoBroker }, Queues: []string{"orders"},
	}
	if change != nil {
		change(&cfg)
	}
	log := new(logtest.Buffer)
	p, err := New(cfg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, log
}

// ask sends a request, headers being name after value.
func (v *visitor) ask(method, at string, form url.Values, headers ...string) *httptest.ResponseRecorder {
	v.t.Helper()
	ctx, cancel := context.WithCancel(v.t.Context())
	defer cancel()
	var r *http.Request
	if method == http.MethodPost {
		r = httptest.NewRequestWithContext(ctx, method, "http://localhost:9466"+at, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		r = httptest.NewRequestWithContext(ctx, method, "http://localhost:9466"+at, nil)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	if v.cookie != nil {
		r.AddCookie(v.cookie)
	}
	w := httptest.NewRecorder()
	if strings.HasPrefix(at, "/ui/live") { // has no end of its own
		time.AfterFunc(100*time.Millisecond, cancel)
	}
	v.page.ServeHTTP(w, r)
	return w
}

func (v *visitor) get(at string) string {
	v.t.Helper()
	w := v.ask(http.MethodGet, at, nil)
	if w.Code != http.StatusOK {
		v.t.Fatalf("GET %s: got %d: %s", at, w.Code, w.Body)
	}
	return w.Body.String()
}

// signedIn is a visitor with a token.
func signedIn(t *testing.T, page http.Handler, token string) *visitor {
	t.Helper()
	v := &visitor{t: t, page: page}
	w := v.ask(http.MethodPost, "/ui/login", url.Values{"token": {token}, "name": {"ada"}})
	for _, c := range w.Result().Cookies() { //nolint:bodyclose // a recorder's
		v.cookie = c
	}
	if w.Code != http.StatusSeeOther || v.cookie == nil {
		t.Fatalf("sign in with %s: got %d and cookie %v", token, w.Code, v.cookie)
	}
	return v
}

// policies are who may use each route: a route without a row fails.
var policies = map[string]role{
	"GET /ui/login": nobody, "POST /ui/login": nobody, "GET /ui/static/{file}": nobody,

	"POST /ui/logout": view, "GET /ui/{$}": view, "GET /ui/live": view,

	"GET /ui/dead": view, "GET /ui/dead/letter": view, "GET /ui/dead/replay": operate, "POST /ui/dead/replay": operate, "GET /ui/dead/discard": admin, "POST /ui/dead/discard": admin,
	"GET /ui/dead/edit": admin, "POST /ui/dead/edit": admin, "POST /ui/dead/edited": admin,

	"GET /ui/jobs": view, "GET /ui/job": view, "POST /ui/job/cancel": operate, "GET /ui/archive": admin,

	"GET /ui/queue": view, "POST /ui/queue/pause": operate, "POST /ui/queue/resume": operate, "POST /ui/queue/cancel": operate,
	"GET /ui/waiting": view, "POST /ui/waiting/release": operate, "POST /ui/waiting/drop": admin, "POST /ui/daemon/quiet": operate, "POST /ui/daemon/work": operate, "GET /ui/message": view,
}

// Every route is asked for by everybody.
func TestWhoMayDoWhat(t *testing.T) {
	p, log := newPage(t, nil)
	called := false
	routes := p.routes()
	for i, r := range routes {
		want, there := policies[r.pattern]
		if !there {
			t.Errorf("the route %s has no row in the table: who may use it?", r.pattern)
		}
		if strings.HasPrefix(r.pattern, http.MethodPost) && r.policy.act == "" && !r.policy.open {
			t.Errorf("the route %s changes something, and is not in the log", r.pattern)
		}
		if r.policy.open != (want == nobody) {
			t.Errorf("the route %s is open: %v", r.pattern, r.policy.open)
		}
		if !r.policy.open {
			routes[i].handler = func(http.ResponseWriter, *http.Request, *session) { called = true }
		}
	}
	handler, err := p.handler(routes)
	if err != nil {
		t.Fatal(err)
	}
	everybody := map[role]*visitor{nobody: {t: t, page: handler}}
	for who, token := range map[role]string{view: tokens.View, operate: tokens.Operate, admin: tokens.Admin} {
		everybody[who] = signedIn(t, handler, token)
	}
	forged := *everybody[admin].cookie
	forged.Value = forged.Value[:len(forged.Value)-1] + "!"
	strangers := []*visitor{everybody[nobody], {t: t, page: handler, cookie: &forged}, {t: t, page: handler, cookie: &http.Cookie{Name: forged.Name, Value: tokens.Admin}}}
	for pattern, least := range policies {
		if least == nobody {
			continue
		}
		method, at, _ := strings.Cut(pattern, " ")
		at = strings.TrimSuffix(at, "{$}")
		ask := func(v *visitor) int {
			called = false
			return v.ask(method, at, url.Values{"queue": {"orders"}}, "Sec-Fetch-Site", "same-origin").Code
		}
		for who := view; who <= admin; who++ {
			code := ask(everybody[who])
			if may := who >= least; called != may || !may && code != http.StatusForbidden {
				t.Errorf("%s by %s: got %d, let through: %v; want that: %v", pattern, who, code, called, may)
			}
		}
		for i, stranger := range strangers {
			want := http.StatusSeeOther // to sign in
			if method == http.MethodPost {
				want = http.StatusUnauthorized
			}
			if code := ask(stranger); called || code != want {
				t.Errorf("%s by stranger %d: got %d, let through: %v", pattern, i, code, called)
			}
		}
		if method == http.MethodPost {
			for _, headers := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"}} {
				called = false
				if code := everybody[admin].ask(method, at, nil, headers...).Code; called || code != http.StatusForbidden {
					t.Errorf("%s from elsewhere (%q): got %d, let through: %v", pattern, headers, code, called)
				}
			}
		}
	}
	for _, secret := range []string{tokens.View, tokens.Operate, tokens.Admin, everybody[admin].cookie.Value} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("a secret is in the log:\n%s", log.String())
		}
	}
	if !strings.Contains(log.String(), `act="sign out" outcome="denied: not signed in"`) {
		t.Errorf("what was denied is not in the log:\n%s", log.String())
	}
}

// A route that nobody was permitted to use does not start.
func TestARouteWithoutAPolicyDoesNotStart(t *testing.T) {
	p, _ := newPage(t, nil)
	for _, bad := range []policy{{}, {lasts: time.Second}, {least: view}, {least: admin + 1, lasts: time.Second}, {least: view, open: true, lasts: time.Second}} {
		if _, err := p.handler([]route{{"POST /ui/purge", bad, nil}}); err == nil || !strings.Contains(err.Error(), "POST /ui/purge has no policy") {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
}

func TestSigningIn(t *testing.T) {
	p, log := newPage(t, nil)
	stranger := &visitor{t: t, page: p}
	for _, token := range []string{"", "wrong", tokens.View[1:], tokens.View + "x", strings.ToUpper(tokens.View)} {
		w := stranger.ask(http.MethodPost, "/ui/login", url.Values{"token": {token}})
		if w.Code != http.StatusForbidden || len(w.Header()["Set-Cookie"]) > 0 || !strings.Contains(w.Body.String(), "no role has this token") {
			t.Errorf("%q: got %d with %v", token, w.Code, w.Header())
		}
	}
	v := signedIn(t, p, tokens.Operate)
	if c := v.cookie; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure || c.Path != "/ui/" || strings.Contains(c.Value, "operate") {
		t.Errorf("got the cookie %+v", c)
	}
	if w := stranger.ask(http.MethodPost, "/ui/login", url.Values{"token": {tokens.View}}, "X-Forwarded-Proto", "https"); !strings.Contains(w.Header().Get("Set-Cookie"), "; Secure") {
		t.Errorf("behind TLS: got %q", w.Header())
	}
	if !strings.Contains(log.String(), `act="sign in" outcome=allowed role=operate name=ada`) || !strings.Contains(log.String(), `act="sign in" outcome="denied: no role has this token"`) {
		t.Errorf("the log has\n%s", log.String())
	}
	// Where to go on is a path of the page.
	for next, want := range map[string]string{"/ui/queue?queue=a": "/ui/queue?queue=a", "//evil.example/ui/": "/ui/", "https://evil.example/ui/": "/ui/", "/ui/\\evil": "/ui/", "/metrics": "/ui/"} {
		if got := stranger.ask(http.MethodPost, "/ui/login", url.Values{"token": {tokens.View}, "next": {next}}).Header().Get("Location"); got != want {
			t.Errorf("next %q leads to %q, want %q", next, got, want)
		}
	}
	if w := stranger.ask(http.MethodGet, "/ui/?q=a", nil); w.Header().Get("Location") != "/ui/login?next=%2Fui%2F%3Fq%3Da" {
		t.Errorf("got %q", w.Header().Get("Location"))
	}

	// A session ends when it is told to, when it is idle, and after its time.
	now := time.Now()
	p.sessions.now = func() time.Time { return now }
	idle, busy := signedIn(t, p, tokens.View), signedIn(t, p, tokens.View)
	in := func(v *visitor) bool { return v.ask(http.MethodGet, "/ui/login", nil).Code == http.StatusSeeOther }
	for range 6 {
		now = now.Add(sessionIdle - time.Minute)
		if !in(busy) {
			t.Fatal("a session has ended that was not idle")
		}
	}
	if in(idle) {
		t.Error("a session goes on that is idle")
	}
	if now = now.Add(sessionLasts - 6*(sessionIdle-time.Minute) + time.Minute); in(busy) {
		t.Error("a session goes on after its time")
	}
	watched := signedIn(t, p, tokens.View) // by a tab that nobody looks at
	now = now.Add(sessionIdle - time.Minute)
	if w := watched.ask(http.MethodGet, "/ui/live?view=jobs", nil); w.Code != http.StatusOK {
		t.Errorf("the stream of a session: got %d", w.Code)
	}
	if now = now.Add(2 * time.Minute); in(watched) {
		t.Error("a session goes on for its frames")
	}
	out := signedIn(t, p, tokens.View)
	out.ask(http.MethodPost, "/ui/logout", nil)
	if in(out) {
		t.Error("a session goes on after its end")
	}
	for range maxSessions + 10 {
		signedIn(t, p, tokens.View)
	}
	if n := len(p.sessions.all); n > maxSessions {
		t.Errorf("got %d sessions, want %d at most", n, maxSessions)
	}
	for range 100 {
		stranger.ask(http.MethodPost, "/ui/login", url.Values{"token": {"guess"}})
	}
	if code := stranger.ask(http.MethodPost, "/ui/login", url.Values{"token": {"guess"}}).Code; code != http.StatusTooManyRequests {
		t.Errorf("after many guesses: got %d, want 429", code)
	}
	signedIn(t, p, tokens.View) // who has one is not kept out
}

func TestHostsAndHeaders(t *testing.T) {
	p, _ := newPage(t, func(c *Config) { c.Hosts = []string{"Warren.example.net"} })
	v := &visitor{t: t, page: p}
	for host, want := range map[string]int{
		"localhost:9466": 200, "127.0.0.1:9466": 200, "[::1]:9466": 200, "10.1.2.3": 200, "warren.example.net": 200, "WARREN.example.net:80": 200, machine(): 200, machine() + ".internal:9466": 200,
		"evil.example": 403, "warren.example.net.evil.example": 403, "": 403, "localhost.evil.example": 403,
	} {
		w := v.ask(http.MethodGet, "/ui/login", nil, "Host", host)
		if w.Code != want {
			t.Errorf("Host %q: got %d, want %d", host, w.Code, want)
		}
		if !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'") || w.Header().Get("X-Frame-Options") != "DENY" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("Host %q: got %v", host, w.Header())
		}
	}
}

// The page says that the broker is away, and does not wait for it.
func TestNoBroker(t *testing.T) {
	p, _ := newPage(t, nil)
	v := signedIn(t, p, tokens.View)
	begun := time.Now()
	if body := v.get("/ui/"); !strings.Contains(body, errNoBroker.Error()) || !strings.Contains(body, `data-testid="stale"`) {
		t.Errorf("got %s", body)
	}
	if took := time.Since(begun); took > rabbittest.Soon {
		t.Errorf("it took %v", took)
	}
}

// A request whose body never ends is given up after the server's time for it, by whomever.
func TestABodyThatNeverEnds(t *testing.T) {
	t.Parallel()
	p, _ := newPage(t, nil)
	server := httptest.NewUnstartedServer(p)
	server.Config.ReadTimeout = 10 * time.Second // for the request line as well
	server.Start()
	t.Cleanup(server.Close)
	for _, request := range []string{
		"GET /ui/login HTTP/1.1\r\nContent-Length: 100\r\n\r\nx",
		"GET /ui/login HTTP/1.1\r\nContent-Length: 100\r\n\r\n",
		"GET /ui/static/page.css HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx",
		"POST /ui/login HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nx",
		"POST /ui/login HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nx",
	} {
		t.Run(request[:strings.IndexByte(request, 'H')], func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetReadDeadline(time.Now().Add(3 * time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, strings.Replace(request, "\r\n", "\r\nHost: localhost\r\n", 1)); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
				t.Errorf("%q: got %v after %.40q", request, err, answer)
			}
		})
	}
}

// Behind a proxy everything is below its path.
func TestBasePath(t *testing.T) {
	p, _ := newPage(t, func(c *Config) { c.BasePath = "/warren" })
	v := signedIn(t, p, tokens.View)
	if v.cookie.Path != "/warren/ui/" {
		t.Errorf("the cookie has the path %q", v.cookie.Path)
	}
	body := v.get("/ui/")
	for _, attribute := range []string{`href="/ui`, `action="/ui`, `src="/ui`, `data-live="/ui`} {
		if strings.Contains(body, attribute) {
			t.Errorf("%s is in the page, and is not below /warren", attribute)
		}
	}
	if !strings.Contains(body, `data-live="/warren/ui/live?view=overview"`) {
		t.Errorf("got %s", body)
	}
}

// All that a browser loads fits 100 kB, compressed.
func TestSizeOfWhatIsLoaded(t *testing.T) {
	p, _ := newPage(t, nil)
	all := 0
	for name, a := range p.static {
		t.Logf("%s: %d bytes, %d compressed", name, len(a.plain), len(a.gzip))
		all += len(a.gzip)
		w := (&visitor{t: t, page: p}).ask(http.MethodGet, "/ui/static/"+name, nil, "Accept-Encoding", "gzip")
		if !bytes.Equal(w.Body.Bytes(), a.gzip) || w.Header().Get("Content-Type") != a.kind || a.kind == "" {
			t.Errorf("%s: got %v", name, w.Header())
		}
	}
	t.Logf("%d bytes compressed in all", all)
	if all > 20_000 { // which leaves 80 kB for a page itself
		t.Errorf("static files have %d bytes, want at most 20,000", all)
	}
}

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                       "<bdi>plain</bdi>",
		`<script>alert("x")</script>`: "<bdi>&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;</bdi>",
		"a\u202eb\x1b[31m":            `<bdi>a<span class="ctl">\u202e</span>b<span class="ctl">\x1b</span>[31m</bdi>`,
		"a\nb\xff":                    `<bdi>a<span class="ctl">\n</span>b<span class="ctl">\xff</span></bdi>`,
	} {
		if got := string(isolated(text)); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
	if got := string(lines("a\r\n\tb\x00")); got != "a\n\tb"+`<span class="ctl">\x00</span>` {
		t.Errorf("got %q", got)
	}
}

// A broker that accepts connections and says nothing costs no more than its timeout, and the
// page says so.
func TestABrokerThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p, _ := newPage(t, func(c *Config) {
		c.Nodes = func() ([]string, error) { return []string{"amqp://guest:guest@" + listener.Addr().String() + "/"}, nil }
	})
	who := signedIn(t, p, tokens.Operate)
	begun := time.Now()
	wantText(t, who.get("/ui/"), "no daemon has answered yet")
	if took := time.Since(begun); took > rabbittest.Soon {
		t.Errorf("the overview took %v", took)
	}
	var asked sync.WaitGroup
	for _, at := range []string{"/ui/dead?queue=orders", "/ui/queue?queue=orders", "/ui/message?id=a", "/ui/dead/replay?queue=orders&all=yes"} {
		asked.Go(func() {
			if body := who.ask(http.MethodGet, at, nil).Body.String(); !strings.Contains(body, "banner bad") || !strings.HasSuffix(strings.TrimSpace(body), "</html>") {
				t.Errorf("%s: got %s", at, body)
			}
		})
	}
	asked.Wait()
	if w := who.ask(http.MethodPost, "/ui/queue/pause", url.Values{"queue": {"orders"}}); w.Code != http.StatusBadGateway {
		t.Errorf("pause: got %d: %s", w.Code, w.Body)
	}
	if took := time.Since(begun); took > 2*sweeping {
		t.Errorf("all of it took %v", took)
	}
}
