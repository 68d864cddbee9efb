package browsertest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves one page, and 404 for the rest.
func serve(t *testing.T, policy, body string) (origin string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		fmt.Fprintf(w, `<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>A page</title><link rel="icon" href="data:,"><main><h1>A page</h1>%s</main></html>`, body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestWhatGoesWrongOnAPage(t *testing.T) {
	b := Start(t)
	t.Logf("Chromium %s", b.Version)
	for _, test := range []struct{ what, policy, body, want string }{
		{"nothing", "script-src 'unsafe-inline'", "<script>console.log(1)</script>", ""},
		{"an error on the console", "", "<script>console.error('oh no')</script>", "^console: oh no$"},
		{"an exception", "", "<script>nothing.there</script>", "^script: .*nothing is not defined"},
		{"a dialog", "", "<script>alert(1)</script>", "^alert: 1$"},
		{"a script that the policy forbids", "script-src 'self'", "<script>alert(1)</script>", "script-src-elem forbids inline"},
		{"a style that the policy forbids", "style-src 'self'", `<p style="color: red">red</p>`, "style-src-attr forbids inline"},
		{"an image from elsewhere", "", `<img src="http://example.com/a.png" alt="a">`, "^request to elsewhere: GET http://example.com/a.png$"},
		{"a file that is not there", "", `<img src="/a.png" alt="a">`, "^response: 404 .*/a.png$"},
	} {
		t.Run(test.what, func(t *testing.T) {
			t.Parallel()
			origin := serve(t, test.policy, test.body)
			p := b.Open(t, origin, Look{})
			p.Do(t, "await page.goto($1, { waitUntil: 'networkidle' })", origin+"/")
			want := regexp.MustCompile("(?m)" + test.want)
			faults := strings.Join(p.Faults(t), "\n")
			for until := time.Now().Add(time.Minute); !want.MatchString(faults) && time.Now().Before(until); { // some are told of later
				<-time.After(50 * time.Millisecond)
				faults = strings.Join(p.Faults(t), "\n")
			}
			if test.want == "" && faults != "" || !want.MatchString(faults) {
				t.Errorf("got %q, want %q", faults, test.want)
			}
		})
	}
}

func TestWhatAPageIs(t *testing.T) {
	b := Start(t)
	origin := serve(t, "default-src 'none'; img-src data:", `<p>Some text</p><noscript>none</noscript>`)
	for _, look := range []Look{{}, {Dark: true}, {Phone: true}, {Phone: true, Dark: true}} {
		p := b.Open(t, origin, look)
		p.Do(t, "await page.goto($1)", origin+"/")
		p.Accessible(t)
		is := Get[string](t, p, `return page.evaluate(() =>
			(innerWidth < 500 ? 'phone' : 'desktop') + (matchMedia('(prefers-color-scheme: dark)').matches ? '-dark' : '-light'))`)
		if is != look.String() {
			t.Errorf("the page is %s, want %s", is, look)
		}
		picture, err := os.ReadFile(p.Screenshot(t, "a-page-"+look.String()))
		if err != nil || http.DetectContentType(picture) != "image/png" {
			t.Errorf("the picture is of %d bytes, %v", len(picture), err)
		}
		cost := p.Cost(t)
		if cost.Requests != 1 || cost.Bytes < 300 || cost.Paint <= 0 {
			t.Errorf("the cost is %+v, want one request of some hundred bytes, and a paint", cost)
		}
	}
	p := b.Open(t, origin, Look{NoScript: true})
	p.Do(t, "await page.goto($1)", origin+"/")
	if text := Get[string](t, p, "return page.locator('body').innerText()"); !strings.Contains(text, "none") {
		t.Errorf("without JavaScript the page is %q, want what is for that", text)
	}
}
