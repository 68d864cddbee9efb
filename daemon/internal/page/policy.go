package page

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A role is what somebody may do. Each may do what those below may.
type role int

const (
	nobody  role = iota // has not said who they are
	view                // sees everything
	operate             // pauses, cancels, puts back
	admin               // changes and takes away
)

func (r role) String() string {
	return [...]string{"nobody", "view", "operate", "admin"}[r]
}

// A route is a pattern of [http.ServeMux] and who may use it.
type route struct {
	pattern string
	policy  policy
	handler func(http.ResponseWriter, *http.Request, *session)
}

// A policy is who may use a route, for how long a request of it may go on, and what the log
// calls it.
type policy struct {
	least role   // whoever has this role or one above it
	open  bool   // or everybody
	act   string // that changes something; empty: it only looks
	alone bool   // a tab that nobody looks at asks for it, too
	lasts time.Duration
}

// valid tells whether somebody has said who may use the route.
func (p policy) valid() bool {
	return p.lasts > 0 && (p.open && p.least == nobody || !p.open && p.least >= view && p.least <= admin)
}

const (
	quickly  = 15 * time.Second // what asks the broker for little
	sweeping = 80 * time.Second // what looks at a whole queue
	// maxFormBytes is the longest form, that of a body that is edited.
	maxFormBytes = 2 << 20
)

// handler serves the routes to those who may use them. A route without a policy is an error.
func (p *Page) handler(routes []route) (http.Handler, error) {
	mux := http.NewServeMux()
	for _, r := range routes {
		if !r.policy.valid() {
			return nil, fmt.Errorf("the route %s has no policy: nobody may use it", r.pattern)
		}
		mux.Handle(r.pattern, p.guard(r))
	}
	mux.Handle("GET /ui", http.RedirectHandler(p.cfg.BasePath+"/ui/", http.StatusSeeOther))
	return p.headers(http.NewCrossOriginProtection().Handler(mux)), nil
}

const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// headers says what a browser may do with any answer, and refuses those who have come by
// another name than this server's: a page elsewhere can have its own name lead here.
func (p *Page) headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Cache-Control", "no-store")
		if !p.isHost(r.Host) {
			http.Error(w, "this server does not go by the name in the header Host; name it in WARREN_ADMIN_HOSTS", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isHost tells whether that is a name of this server: one that was configured, that of the
// machine, or an address, which no other page can have for a name.
func (p *Page) isHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" || slices.Contains(p.hosts, host) {
		return true
	}
	return host != "" && (host == p.machine || strings.HasPrefix(host, p.machine+"."))
}

// guard lets those through who may use the route.
func (p *Page) guard(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeoutCause(r.Context(), rt.policy.lasts, errTooLong)
		defer cancel()
		defer context.AfterFunc(p.ctx, cancel)()
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
		s := p.sessions.of(r, !rt.policy.alone)
		if err := r.ParseForm(); err != nil {
			p.fail(w, r, nil, http.StatusBadRequest, fmt.Errorf("the form cannot be read: %w", err))
			return
		}
		// What is no form has not been read, and may never come.
		if _, err := io.ReadFull(r.Body, make([]byte, 1)); !errors.Is(err, io.EOF) {
			p.fail(w, r, nil, http.StatusBadRequest, errors.New("the request has a body that is no form; send Content-Type: application/x-www-form-urlencoded, with POST"))
			return
		}
		// All has been read. What the server allows for that must not end what follows.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		switch {
		case rt.policy.open:
		case s == nil && r.Method == http.MethodGet:
			p.audit(r, nil, rt.policy.act, "denied: not signed in")
			to := p.cfg.BasePath + "/ui/login"
			if at := r.URL.RequestURI(); strings.HasPrefix(at, "/ui/") && at != "/ui/" && len(at) < 2000 && rt.policy.act == "" {
				to += "?next=" + url.QueryEscape(at)
			}
			http.Redirect(w, r, to, http.StatusSeeOther)
			return
		case s == nil:
			p.audit(r, nil, rt.policy.act, "denied: not signed in")
			p.fail(w, r, nil, http.StatusUnauthorized, errors.New("you are not signed in, or no longer; nothing was done"))
			return
		case s.role < rt.policy.least:
			p.audit(r, s, rt.policy.act, "denied: takes the role "+rt.policy.least.String())
			p.fail(w, r, s, http.StatusForbidden, fmt.Errorf("this takes the role %s, and you have signed in with the token for the role %s; nothing was done", rt.policy.least, s.role))
			return
		}
		rt.handler(w, r, s)
	})
}

var errTooLong = errors.New("it took too long, and was given up")

// audit writes an act down: who, what, of which queue, which messages, how many, and what
// came of it.
func (p *Page) audit(r *http.Request, s *session, act, outcome string, more ...any) {
	if act == "" {
		return
	}
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = r.RemoteAddr
	}
	attrs := []any{"act", act, "outcome", outcome, "role", roleOf(s).String(), "name", nameOf(s), "from", from}
	if forwarded := r.Header.Get("X-Forwarded-For"); forwarded != "" {
		attrs = append(attrs, "forwarded_for", cut(forwarded, 200))
	}
	for _, name := range []string{"queue", "filter", "message_id", "daemon"} {
		if text := cut(r.Form.Get(name), 300); text != "" {
			attrs = append(attrs, name, text)
		}
	}
	if ids := r.Form["id"]; len(ids) > 0 {
		attrs = append(attrs, "message_ids", cut(strings.Join(ids, " "), 300))
	}
	p.log.Info("act on the page", append(attrs, more...)...)
}

func roleOf(s *session) role {
	if s == nil {
		return nobody
	}
	return s.role
}

func nameOf(s *session) string {
	if s == nil {
		return ""
	}
	return s.name
}

// cut is text of at most so many bytes.
func cut(text string, most int) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + "…"
}

// machine is what this machine is called.
func machine() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return strings.ToLower(name)
}
