// Package page is the page under /ui/: the whole fleet, every queue and every dead letter in
// any browser, over the same mechanisms as the command line, with the same words, filters and
// acts. It shows what the packages fleet and operator find out, and does what they do.
//
// Nobody pays for it while nobody looks: the fleet is watched from the first request on, once
// for all tabs, until a little after the last one. What acts on many messages runs here, as a
// job, whether or not the tab is still open.
package page

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/operator"
	"github.com/warrenmq/warren/consumer/state"
	"github.com/warrenmq/warren/daemon/internal/legible"
)

// Config is what a Page is made from.
type Config struct {
	Program, Version string
	Tokens           Tokens
	// Addr is where the server listens, host:port.
	Addr string
	// BasePath is what a proxy has before /ui/, such as /warren. Empty: nothing.
	BasePath string
	// Hosts are further names of this server.
	Hosts []string
	// Nodes returns the URLs of the broker's nodes. Required.
	Nodes func() ([]string, error)
	// User is the name by which the broker knows this process; empty: that of the URL.
	User string
	// Queues are those that this daemon works.
	Queues []string
	// TraceURL is where traces can be seen, {trace} standing for the id of one.
	TraceURL string
	// State returns where a message stands, in the queue if one is named; nil: that is
	// not kept.
	State func(ctx context.Context, messageID, queue string) (state.Message, bool, error)
	// Archives is the folder that discarded messages are kept in.
	Archives string
	// Settings are the variables of the queues of this daemon that are not as they are by
	// default, without secrets, by queue.
	Settings map[string][]string
}

// A Page is the server of the page. It is to be closed.
type Page struct {
	cfg     Config
	log     *slog.Logger
	ctx     context.Context // ends when it is closed
	stop    context.CancelFunc
	http    http.Handler
	machine string
	hosts   []string

	sessions *sessions
	guesses  *rate.Limiter
	hub      *hub
	looks    looks
	jobs     *jobs

	streams chan struct{}

	templates *template.Template
	static    map[string]asset
}

//go:embed static templates
var files embed.FS

// New makes a Page. A route that nobody has been permitted to use is an error.
func New(cfg Config, log *slog.Logger) (*Page, error) {
	ctx, stop := context.WithCancel(context.Background())
	p := &Page{
		cfg: cfg, log: log, ctx: ctx, stop: stop, machine: machine(), guesses: guesses(), streams: make(chan struct{}, maxStreams),
		sessions: &sessions{cookie: cookieName(cfg.Addr), path: cfg.BasePath + "/ui/", now: time.Now, all: make(map[[sha256.Size]byte]*session)},
	}
	for _, host := range cfg.Hosts {
		p.hosts = append(p.hosts, strings.ToLower(strings.TrimSpace(host)))
	}
	p.jobs = newJobs(ctx)
	p.hub = newHub(ctx, p.dial, cfg.Queues)

	err := p.load()
	if err == nil {
		p.http, err = p.handler(p.routes())
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("the page: %w", err)
	}
	return p, nil
}

// ServeHTTP serves what is below /ui/.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.http.ServeHTTP(w, r) }

// Close ends the streams, the jobs, which finish what they have begun, and the sessions. It
// returns when nothing of the page goes on.
func (p *Page) Close() error {
	p.stop()
	p.jobs.close()

	p.hub.close()
	return nil
}

func (p *Page) routes() []route {
	open := func(d time.Duration) policy { return policy{open: true, lasts: d} }
	looks := func(least role, d time.Duration) policy { return policy{least: least, lasts: d} }
	acts := func(least role, act string) policy { return policy{least: least, act: act, lasts: sweeping} }
	return []route{
		{"GET /ui/login", open(quickly), p.showLogin},
		{"POST /ui/login", open(quickly), p.signIn},
		{"GET /ui/static/{file}", open(quickly), p.asset},

		{"POST /ui/logout", acts(view, "sign out"), p.signOut},
		{"GET /ui/{$}", looks(view, quickly), p.overview},
		{"GET /ui/live", policy{least: view, alone: true, lasts: sessionLasts}, p.live},

		{"GET /ui/dead", looks(view, sweeping), p.dead},
		{"GET /ui/dead/letter", looks(view, sweeping), p.letter},
		{"GET /ui/dead/replay", looks(operate, sweeping), p.replayDryRun},
		{"POST /ui/dead/replay", acts(operate, "replay"), p.replay},
		{"GET /ui/dead/discard", looks(admin, sweeping), p.discardDryRun},
		{"POST /ui/dead/discard", acts(admin, "discard"), p.discard},
		{"GET /ui/dead/edit", looks(admin, sweeping), p.edit},
		{"POST /ui/dead/edit", acts(admin, "edit"), p.compare},
		{"POST /ui/dead/edited", acts(admin, "replay edited"), p.replayEdited},

		{"GET /ui/queue", looks(view, sweeping), p.queue},
		{"POST /ui/queue/pause", acts(operate, "pause"), p.pause},
		{"POST /ui/queue/resume", acts(operate, "resume"), p.resume},
		{"POST /ui/queue/cancel", acts(operate, "cancel"), p.cancelAttempt},
		{"GET /ui/waiting", looks(view, sweeping), p.waiting},
		{"POST /ui/waiting/release", acts(operate, "release"), p.release},
		{"POST /ui/waiting/drop", acts(admin, "drop"), p.drop},
		{"POST /ui/daemon/quiet", acts(operate, "quiet"), p.quiet},
		{"POST /ui/daemon/work", acts(operate, "work"), p.work},
		{"GET /ui/message", looks(view, sweeping), p.message},

		{"GET /ui/jobs", looks(view, quickly), p.showJobs},
		{"GET /ui/job", looks(view, quickly), p.showJob},
		{"POST /ui/job/cancel", acts(operate, "cancel job"), p.cancelJob},
		{"GET /ui/archive", policy{least: admin, act: "download", lasts: time.Hour}, p.download},
	}
}

// dial connects for the fleet.
func (p *Page) dial(ctx context.Context) (*fleet.Client, error) {
	nodes, err := p.cfg.Nodes()
	if err != nil {
		return nil, err
	}
	return fleet.Dial(ctx, p.cfg.Program, p.cfg.User, nodes)
}

// broker is what looks into queues, and moves their messages.
func (p *Page) broker() (operator.Broker, error) {
	nodes, err := p.cfg.Nodes()
	return operator.Broker{Program: p.cfg.Program, User: p.cfg.User, Nodes: nodes}, err
}

// An asset is a static file.
type asset struct {
	kind        string
	plain, gzip []byte
}

var kinds = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// load reads the templates and the static files, which the program consists of.
func (p *Page) load() error {
	p.static = make(map[string]asset)
	names, err := fs.Glob(files, "static/*")
	if err != nil {
		return err
	}
	versions := make(map[string]string)
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		var packed bytes.Buffer
		z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if _, err := z.Write(text); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		base := path.Base(name)
		versions[base] = base + "?v=" + hex.EncodeToString(sum[:4])
		p.static[base] = asset{kinds[path.Ext(name)], text, packed.Bytes()}
	}
	p.templates, err = template.New("").Funcs(template.FuncMap{
		"text": isolated, "lines": lines, "ago": ago, "short": short, "rate": perSecond, "count": count, "size": size, "plural": plural,
		"link": p.link, "idparam": idParam, "inc": func(n int) int { return n + 1 }, "add": func(a, b int) int { return a + b },
		"static": func(name string) string { return p.cfg.BasePath + "/ui/static/" + versions[name] },
		"spark":  spark,
		"sorted": sortedColumn,
	}).ParseFS(files, "templates/*.html")
	return err
}

func (p *Page) asset(w http.ResponseWriter, r *http.Request, _ *session) {
	a, there := p.static[r.PathValue("file")]
	if !there {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Vary", "Accept-Encoding")
	if r.URL.Query().Has("v") { // another version has another address
		w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	body := a.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		body = a.gzip
	}
	_, _ = w.Write(body) // the client may have gone
}

// link is an address of the page with parameters, name after value; empty values are left out.
func (p *Page) link(at string, params ...string) string {
	values := make(url.Values)
	for i := 0; i+1 < len(params); i += 2 {
		if params[i+1] != "" {
			values.Add(params[i], params[i+1])
		}
	}
	if len(values) > 0 {
		at += "?" + values.Encode()
	}
	return p.cfg.BasePath + "/ui/" + at
}

func (p *Page) redirect(w http.ResponseWriter, r *http.Request, to string) {
	http.Redirect(w, r, p.cfg.BasePath+to, http.StatusSeeOther)
}

// A frame is what every page has around what it shows.
type frame struct {
	Title   string
	Nav     string // which part of the page it is
	Program string
	Machine string
	Version string
	Role    string
	Name    string
	Notice  string
	Refresh bool   // without JavaScript
	Live    string // where the stream of what changes is; empty: nothing does
	Operate bool   // may do what that role may
	Admin   bool
	Data    any
}

func (p *Page) frame(s *session, name, title string, data any) frame {
	nav, _, _ := strings.Cut(name, "-")
	return frame{
		Title: legible.Line(title), Nav: nav, Program: p.cfg.Program, Version: p.cfg.Version, Machine: fleet.Host(), Role: roleOf(s).String(), Name: nameOf(s), Notice: p.sessions.noted(s),
		Operate: roleOf(s) >= operate, Admin: roleOf(s) >= admin, Data: data,
	}
}

// render answers with a template of that name between the top and the bottom of the page.
func (p *Page) render(w http.ResponseWriter, r *http.Request, s *session, status int, name, title string, data any) {
	p.renderFrame(w, r, status, name, p.frame(s, name, title, data))
}

func (p *Page) renderFrame(w http.ResponseWriter, r *http.Request, status int, name string, f frame) {
	var out bytes.Buffer
	for _, part := range []string{"top", name, "bottom"} {
		if err := p.templates.ExecuteTemplate(&out, part, f); err != nil {
			p.log.Error("a page cannot be made", "page", name, "error", err)
			http.Error(w, "the page cannot be made; the daemon's log says why", http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // the client may have gone
}

// A sheet is a page that is sent part by part, for what takes a while.
type sheet struct {
	p *Page
	w http.ResponseWriter
	r *http.Request
	f frame
}

// begin sends the top of a page.
func (p *Page) begin(w http.ResponseWriter, r *http.Request, f frame) *sheet {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("X-Accel-Buffering", "no")
	s := &sheet{p: p, w: w, r: r, f: f}
	s.send("top", nil)
	return s
}

// send sends a part, at once.
func (s *sheet) send(name string, data any) {
	f := s.f
	if data != nil {
		f.Data = data
	}
	var out bytes.Buffer
	if err := s.p.templates.ExecuteTemplate(&out, name, f); err != nil {
		s.p.log.Error("a page cannot be made", "page", name, "error", err)
		return
	}
	_, _ = out.WriteTo(s.w) // the client may have gone
	_ = http.NewResponseController(s.w).Flush()
}

// fail answers with what is wrong.
func (p *Page) fail(w http.ResponseWriter, r *http.Request, s *session, status int, err error) {
	p.render(w, r, s, status, "error", http.StatusText(status), problem{errors.Join(err), status == http.StatusUnauthorized})
}

type problem struct {
	Err    error
	SignIn bool
}

// explained is an error as it is shown: that a look has taken too long is said in words.
func explained(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	return err
}

// A looks has the looks into a queue follow each other: what one holds, another does not see.
type looks struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// hold waits for its turn at a queue, until ctx ends.
func (l *looks) hold(ctx context.Context, queue string) (release func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = make(map[string]chan struct{})
	}
	turn := l.held[queue]
	if turn == nil {
		turn = make(chan struct{}, 1)
		l.held[queue] = turn
	}
	l.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
