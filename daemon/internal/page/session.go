package page

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/time/rate"
)

const (
	// sessionLasts is how long a session lasts at most, and sessionIdle how long without a
	// request.
	sessionLasts = 12 * time.Hour
	sessionIdle  = 2 * time.Hour
	// maxSessions bounds their memory: beyond, the one that was idle for longest ends.
	maxSessions = 1000
	maxName     = 60
)

// Tokens are what roles are given for. Those that are empty do not exist.
type Tokens struct{ View, Operate, Admin string }

// Any tells whether there is one.
func (t Tokens) Any() bool { return t != Tokens{} }

// roleFor is the role that a token is for. It takes as long whichever that is.
func (t Tokens) roleFor(token string) role {
	got, found := sha256.Sum256([]byte(token)), nobody
	for i, want := range []string{t.View, t.Operate, t.Admin} {
		sum := sha256.Sum256([]byte(want))
		if subtle.ConstantTimeCompare(got[:], sum[:]) == 1 && want != "" {
			found = role(i + 1)
		}
	}
	return found
}

// A session is somebody who has signed in.
type session struct {
	role   role
	name   string // as they call themselves; for the log
	began  time.Time
	seen   time.Time
	notice string // is shown once
}

// sessions are those of one daemon. They end with it.
type sessions struct {
	cookie string // its name
	path   string
	now    func() time.Time

	mu  sync.Mutex
	all map[[sha256.Size]byte]*session // by the digest of what the cookie holds
}

func (t *sessions) begin(w http.ResponseWriter, r *http.Request, who role, name string) *session {
	id := rand.Text() + rand.Text()
	now := t.now()
	s := &session{role: who, name: name, began: now, seen: now}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) >= maxSessions {
		var idle [sha256.Size]byte
		var since time.Time
		for key, other := range t.all {
			if since.IsZero() || other.seen.Before(since) {
				idle, since = key, other.seen
			}
		}
		delete(t.all, idle)
	}
	t.all[sha256.Sum256([]byte(id))] = s
	http.SetCookie(w, t.made(r, id, int(sessionLasts.Seconds())))
	return s
}

func (t *sessions) made(r *http.Request, value string, age int) *http.Cookie {
	return &http.Cookie{
		Name: t.cookie, Value: value, Path: t.path, MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https"),
	}
}

// of is the session of a request; nil: there is none, or it has ended. With attended, somebody is
// there, and it goes on.
func (t *sessions) of(r *http.Request, attended bool) *session {
	cookie, err := r.Cookie(t.cookie)
	if err != nil {
		return nil
	}
	key := sha256.Sum256([]byte(cookie.Value))
	t.mu.Lock()
	defer t.mu.Unlock()
	s, now := t.all[key], t.now()
	if s == nil {
		return nil
	}
	if now.Sub(s.began) > sessionLasts || now.Sub(s.seen) > sessionIdle {
		delete(t.all, key)
		return nil
	}
	if attended {
		s.seen = now
	}
	return s
}

func (t *sessions) end(w http.ResponseWriter, r *http.Request) {
	if cookie, err := r.Cookie(t.cookie); err == nil {
		t.mu.Lock()
		delete(t.all, sha256.Sum256([]byte(cookie.Value)))
		t.mu.Unlock()
	}
	http.SetCookie(w, t.made(r, "", -1))
}

// note has the session be told something on the next page.
func (t *sessions) note(s *session, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.notice = text
}

func (t *sessions) noted(s *session) string {
	if s == nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	text := s.notice
	s.notice = ""
	return text
}

// cookieName differs between daemons of one machine, which share the cookies of its name.
func cookieName(addr string) string {
	sum := sha256.Sum256([]byte(addr))
	return "warren_" + hex.EncodeToString(sum[:4])
}

// guesses is how often a wrong token may be tried: guessing one of 16 characters is hopeless,
// and is not to cost anything either.
var guesses = func() *rate.Limiter { return rate.NewLimiter(1, 20) }

var errWrongToken = errors.New("no role has this token")

func (p *Page) showLogin(w http.ResponseWriter, r *http.Request, s *session) {
	if s != nil {
		p.redirect(w, r, "/ui/")
		return
	}
	p.login(w, r, http.StatusOK, nil)
}

func (p *Page) login(w http.ResponseWriter, r *http.Request, status int, err error) {
	p.render(w, r, nil, status, "login", "Sign in", struct {
		Next, Name string
		Err        error
	}{nextOf(r), cut(r.FormValue("name"), maxName), err})
}

// nextOf is where to go after signing in: a path of the page.
func nextOf(r *http.Request) string {
	next := r.FormValue("next")
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(next, "/ui/") || strings.ContainsAny(next, "\\\r\n") || len(next) > 2000 {
		return ""
	}
	return next
}

func (p *Page) signIn(w http.ResponseWriter, r *http.Request, _ *session) {
	name := strings.TrimSpace(r.PostForm.Get("name"))
	if len(name) > maxName || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }) {
		p.login(w, r, http.StatusBadRequest, errors.New("the name may have 60 bytes, and no control characters"))
		return
	}
	who := p.cfg.Tokens.roleFor(strings.TrimSpace(r.PostForm.Get("token")))
	claimed := &session{role: who, name: name}
	if who == nobody {
		if !p.guesses.Allow() {
			w.Header().Set("Retry-After", "10")
			p.login(w, r, http.StatusTooManyRequests, errors.New("too many wrong tokens; wait a moment"))
			return
		}
		p.audit(r, claimed, "sign in", "denied: "+errWrongToken.Error())
		p.login(w, r, http.StatusForbidden, errWrongToken)
		return
	}
	p.sessions.end(w, r) // that of before, if there is one
	w.Header().Del("Set-Cookie")
	s := p.sessions.begin(w, r, who, name)
	p.audit(r, s, "sign in", "allowed")
	p.redirect(w, r, cmp.Or(nextOf(r), "/ui/"))
}

func (p *Page) signOut(w http.ResponseWriter, r *http.Request, s *session) {
	p.sessions.end(w, r)
	p.audit(r, s, "sign out", "allowed")
	p.redirect(w, r, "/ui/login")
}
