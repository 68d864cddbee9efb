package main

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/warrenmq/warren/internal/browsertest"
)

// views are the addresses that links of the page lead to, one for each path and set of
// parameters.
func (s *site) views(t *testing.T, p *browsertest.Page) []string {
	t.Helper()
	views := browsertest.Get[[]string](t, p, `
		const shape = u => u.pathname + ' ' + [...new Set(u.searchParams.keys())].sort()
		const found = new Map(), todo = [$1 + '/ui/']
		while (todo.length > 0) {
			const at = todo.shift(), s = shape(new URL(at))
			if (found.has(s)) continue
			found.set(s, at)
			await page.goto(at)
			todo.push(...await page.locator('a[href]:not([download])').evaluateAll(all => all.map(a => a.href.replace(/#.*/, ''))))
		}
		return [...found.values()]`, s.url)
	for _, view := range views {
		if !strings.HasPrefix(view, s.url+"/ui/") {
			t.Errorf("a link leads to %s", view)
		}
	}
	return views
}

// nameOf is a name of a view for a file.
func nameOf(t *testing.T, view string) string {
	t.Helper()
	u, err := url.Parse(view)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ReplaceAll(strings.Trim(strings.TrimPrefix(u.Path, "/ui/"), "/"), "/", "-")
	if name == "" {
		name = "overview"
	}
	for _, parameter := range []string{"filter", "q", "sort", "group"} {
		if u.Query().Has(parameter) {
			name += "-" + parameter
		}
	}
	return path.Base(name)
}

var looks = []browsertest.Look{{}, {Dark: true}, {Phone: true}, {Phone: true, Dark: true}}

// everyView looks at each view as axe-core does, light and dark, wide and narrow; keeps a
// picture of each; and prints what each costs.
func everyView(t *testing.T, s *site) {
	views := s.views(t, s.open(t, adminToken, browsertest.Look{}))
	for _, look := range looks {
		t.Run(look.String(), func(t *testing.T) {
			t.Parallel()
			p := s.open(t, adminToken, look)
			for _, view := range views {
				p.Do(t, "await page.goto($1)", view)
				name := nameOf(t, view)
				if wide := browsertest.Get[int](t, p, "return page.evaluate(() => document.documentElement.scrollWidth - innerWidth)"); wide > 0 {
					t.Errorf("%s is %d pixels wider than the window", name, wide)
				}
				p.Accessible(t)
				p.Screenshot(t, fmt.Sprintf("%s-%s", name, look))
				if look == (browsertest.Look{}) {
					c := p.Cost(t)
					t.Logf("%-24s %3d requests, %6d bytes, %5.1f ms of script, first paint after %4.0f ms", name, c.Requests, c.Bytes, c.Script, c.Paint)
				}
			}
		})
	}
}
