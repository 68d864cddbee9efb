// Package browsertest drives a real Chromium, for tests of pages: whatever a person can do
// with a page, and what must not happen on it meanwhile.
//
//	b := browsertest.Start(t)
//	p := b.Open(t, "http://127.0.0.1:9466", browsertest.Look{})
//	p.Do(t, "await page.goto($1)", "http://127.0.0.1:9466/ui/")
//	p.Do(t, "await page.getByRole('button', { name: 'Pause' }).click()")
//
// The scripts are those of Playwright (https://playwright.dev), which wait for what they ask
// for: an element that is there, can be seen and stands still. A page that reports an error,
// breaks its Content-Security-Policy, opens a dialog, or asks another server for something,
// fails its test.
package browsertest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/nodetest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// patience is how long a script waits for what it asks for on a machine as fast as usual.
const patience = time.Minute

// A Browser is a Chromium in a profile of its own, and the program that drives it.
type Browser struct {
	// Version is Chromium's.
	Version string

	dir string // that of the driver and its packages

	mu    sync.Mutex
	stdin io.WriteCloser
	last  int                 // the number of the last call or page
	calls map[int]chan answer // those that are under way
	ended error               // why there will be no answers
}

type answer struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  string          `json:"error"`
}

// Start starts a browser, which ends with the test. The first time on a machine it installs
// packages with npm. The variable CHROMIUM may name another Chromium than that of PATH.
func Start(t testing.TB) *Browser {
	t.Helper()
	chromium := os.Getenv("CHROMIUM")
	if chromium == "" {
		path, err := exec.LookPath("chromium")
		if err != nil {
			t.Fatalf("there is no chromium; .ci/deps installs it, and the variable CHROMIUM may name another one: %v", err)
		}
		chromium = path
	}
	b := &Browser{calls: make(map[int]chan answer), dir: nodetest.Install(t, filepath.Join(root(), "internal", "browsertest", "driver"))}
	limit := time.Duration(float64(patience) * rabbittest.Slowness())
	cmd := exec.Command("node", filepath.Join(b.dir, "driver.mjs"), chromium, fmt.Sprint(limit.Milliseconds()))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.stdin = stdin
	ready := make(chan answer, 1)
	b.calls[0] = ready
	read := make(chan struct{})
	go func() { defer close(read); b.read(stdout) }()
	t.Cleanup(func() {
		_ = stdin.Close() // at which it closes the browser and ends
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("the browser's driver: %v", err)
		}
	})
	a := <-ready
	if err := json.Unmarshal(a.Result, &b.Version); err != nil {
		t.Fatalf("start %s: %v %s", chromium, err, a.Error)
	}
	return b
}

// read hands out the answers until there are no more.
func (b *Browser) read(stdout io.Reader) {
	lines := bufio.NewReader(stdout)
	var err error
	for err == nil {
		var line []byte
		if line, err = lines.ReadBytes('\n'); err != nil {
			break
		}
		var a answer
		if err = json.Unmarshal(line, &a); err == nil {
			b.mu.Lock()
			call := b.calls[a.ID]
			delete(b.calls, a.ID)
			b.mu.Unlock()
			call <- a
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = fmt.Errorf("the browser's driver has ended: %w", err)
	for _, call := range b.calls {
		call <- answer{Error: b.ended.Error()}
	}
}

// call has the driver do something, and blocks until it has.
func (b *Browser) call(request map[string]any) (json.RawMessage, error) {
	b.mu.Lock()
	b.last++
	id, done := b.last, make(chan answer, 1)
	request["id"] = id
	line, err := json.Marshal(request)
	if err == nil {
		err = b.ended
	}
	if err == nil {
		b.calls[id] = done
		_, err = b.stdin.Write(append(line, '\n'))
	}
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	a := <-done
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return a.Result, nil
}

// A Look is how a page is looked at.
type Look struct {
	Dark     bool // prefers-color-scheme is dark
	Phone    bool // 390 pixels wide, with fingers
	NoScript bool // JavaScript is off
}

// String is a name for it.
func (l Look) String() string {
	name := "desktop"
	if l.Phone {
		name = "phone"
	}
	if l.Dark {
		return name + "-dark"
	}
	return name + "-light"
}

func (l Look) options(origin string) map[string]any {
	options := map[string]any{
		"origin": origin, "javaScriptEnabled": !l.NoScript, "colorScheme": "light", "reducedMotion": "reduce",
		"viewport": map[string]int{"width": 1280, "height": 800}, "locale": "en-GB", "timezoneId": "UTC", "acceptDownloads": true,
	}
	if l.Dark {
		options["colorScheme"] = "dark"
	}
	if l.Phone {
		options["viewport"], options["isMobile"], options["hasTouch"] = map[string]int{"width": 390, "height": 844}, true, true
	}
	return options
}

// A Page is a tab, with cookies of its own.
type Page struct {
	b      *Browser
	number int
}

// Open opens a tab that may ask nobody but the origin, such as http://127.0.0.1:9466, and
// that is empty. The end of the test closes it; what went wrong on it by then fails the test.
func (b *Browser) Open(t testing.TB, origin string, look Look) *Page {
	t.Helper()
	b.mu.Lock()
	b.last++
	p := &Page{b, b.last}
	b.mu.Unlock()
	if _, err := b.call(map[string]any{"what": "open", "page": p.number, "options": look.options(origin)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, fault := range p.Faults(t) {
			t.Errorf("on the page: %s", fault)
		}
		if _, err := b.call(map[string]any{"what": "close", "page": p.number}); err != nil {
			t.Error(err)
		}
	})
	return p
}

// Faults returns, once, what went wrong on the page.
func (p *Page) Faults(t testing.TB) (faults []string) {
	t.Helper()
	result, err := p.b.call(map[string]any{"what": "faults", "page": p.number})
	if err == nil {
		err = json.Unmarshal(result, &faults)
	}
	if err != nil {
		t.Error(err)
	}
	return faults
}

// Do runs the body of an asynchronous function with the variables page, context, and the
// arguments as $1, $2 and so on. If it fails, so does the test, which says what was on the
// page and keeps a picture of it.
func (p *Page) Do(t testing.TB, script string, args ...any) {
	t.Helper()
	Get[any](t, p, script, args...)
}

// Get does that and returns what the script does.
func Get[T any](t testing.TB, p *Page, script string, args ...any) (result T) {
	t.Helper()
	content, err := p.run(script, args...)
	if err == nil && len(content) > 0 {
		err = json.Unmarshal(content, &result)
	}
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", script, args, err, p.describe(t))
	}
	return result
}

func (p *Page) run(script string, args ...any) (json.RawMessage, error) {
	if args == nil {
		args = []any{}
	}
	return p.b.call(map[string]any{"what": "run", "page": p.number, "script": script, "args": args})
}

// describe says what is on the page.
func (p *Page) describe(t testing.TB) string {
	picture := pictures(strings.NewReplacer("/", "-", " ", "_").Replace("failed-" + t.Name()))
	content, err := p.run(`await page.screenshot({ path: $1 }); return page.url() + '\n' + await page.locator('body').innerText()`, picture)
	if err != nil {
		return "nor can the page be looked at: " + err.Error()
	}
	var text string
	_ = json.Unmarshal(content, &text)
	return fmt.Sprintf("A picture of the page is %s; it says:\n%.4000s", picture, text)
}

// Screenshot keeps a picture of the whole page as a PNG in the folder .cache/screenshots, and
// returns where.
func (p *Page) Screenshot(t testing.TB, name string) string {
	t.Helper()
	path := pictures(name)
	p.Do(t, "await page.mouse.move(0, 0); await page.screenshot({ path: $1, fullPage: true, animations: 'disabled' })", path)
	return path
}

func pictures(name string) string { return filepath.Join(root(), ".cache", "screenshots", name+".png") }

// Accessible fails the test for what axe-core finds on the page: what keeps people with
// another sight, or with a keyboard alone, from using it.
func (p *Page) Accessible(t testing.TB) {
	t.Helper()
	axe, err := os.ReadFile(filepath.Join(p.b.dir, "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	for _, violation := range Get[[]string](t, p, `
		await page.evaluate($1)
		const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ['violations'] }))
		return violations.flatMap(v => v.nodes.map(n => v.id + ': ' + n.html.slice(0, 200) + ': ' + n.failureSummary))`, string(axe)) {
		t.Errorf("%s: %s", Get[string](t, p, "return page.url()"), violation)
	}
}

// A Cost is what the page that was loaded last has cost until now.
type Cost struct {
	Requests int
	Bytes    int     // over the network, headers included
	Script   float64 // milliseconds of JavaScript
	Paint    float64 // milliseconds until something could be seen
}

// Cost measures that.
func (p *Page) Cost(t testing.TB) Cost {
	t.Helper()
	cost := Get[Cost](t, p, `return page.evaluate(() => {
		const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
		return { Requests: all.length, Bytes: all.reduce((n, e) => n + e.transferSize, 0), Paint: performance.getEntriesByName('first-contentful-paint')[0]?.startTime }
	})`)
	content, err := p.b.call(map[string]any{"what": "metrics", "page": p.number})
	var metrics struct{ ScriptDuration float64 } // seconds
	if err == nil {
		err = json.Unmarshal(content, &metrics)
	}
	if err != nil {
		t.Fatal(err)
	}
	cost.Script = 1000 * metrics.ScriptDuration
	return cost
}

// root is the module's folder.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
