package page

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/logtest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// A hostile text does something wherever it is taken for more than text.
const hostile = "<script>alert(1)</script>\u202e\x1b[31m\"'&"

// declare declares a work queue as a daemon does, and its dead letters.
func declare(t *testing.T, v *rabbittest.Vhost, queue string) {
	t.Helper()
	v.Declare(t, queue, amqp.Table{
		"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue + ".dead",
		"x-dead-letter-strategy": "at-least-once", "x-delivery-limit": int64(20),
	})
	v.Declare(t, queue+".dead", amqp.Table{"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": int64(1_000_000)})
}

// bury publishes n dead letters, one in four of which is permanent.
func bury(t *testing.T, v *rabbittest.Vhost, queue string, n int) {
	t.Helper()
	v.PublishN(t, queue+".dead", n, func(i int) amqp.Publishing {
		reason, text := "exhausted", fmt.Sprintf("order %d: 451 try again", i)
		if i%4 == 0 {
			reason, text = "permanent", "550 "+hostile
		}
		return amqp.Publishing{
			MessageId: fmt.Sprintf("m-%d", i), Type: "order", ContentType: "application/json", Body: fmt.Appendf(nil, `{"n":%d,"text":"<b>%[1]d</b>"}`, i),
			Headers: amqp.Table{
				"tenant": hostile, "x-warren-reason": reason, "x-warren-error": text, "x-warren-attempt": int64(20), "x-warren-failed-at": time.Now().Add(-time.Hour).UnixMilli(),
				"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			},
		}
	})
}

// withBroker is a page over a virtual host with a queue orders, and n dead letters in it.
func withBroker(t *testing.T, n int) (*rabbittest.Vhost, *Page, *logtest.Buffer) {
	t.Helper()
	v := rabbittest.NewVhost(t)
	declare(t, v, "orders")
	bury(t, v, "orders", n)
	p, log := newPage(t, func(c *Config) {
		c.Nodes = func() ([]string, error) { return []string{v.URL}, nil }
		c.TraceURL = "https://jaeger.example.net/trace/{trace}"
	})
	return v, p, log
}

// begin posts what begins a job, and waits until that has ended.
func (v *visitor) begin(p *Page, at string, form url.Values) *job {
	v.t.Helper()
	w := v.ask(http.MethodPost, at, form)
	_, id, found := strings.Cut(w.Header().Get("Location"), "/ui/job?id=")
	if w.Code != http.StatusSeeOther || !found {
		v.t.Fatalf("POST %s: got %d: %s", at, w.Code, w.Body)
	}
	j := p.jobs.find(id)
	select {
	case <-j.done:
	case <-time.After(2 * time.Minute):
		v.t.Fatalf("%s has not ended: %+v", at, j.view(admin))
	}
	return j
}

func wantText(t *testing.T, body string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(body, text) {
			t.Errorf("the page lacks %q:\n%s", text, body[max(0, strings.Index(body, "<main")):])
		}
	}
	for _, bad := range []string{"<script>alert", "\u202e", "\x1b", "<b>"} {
		if strings.Contains(body, bad) {
			t.Errorf("the page has %q of a message", bad)
		}
	}
}

func TestLookingAtDeadLetters(t *testing.T) {
	t.Parallel()
	v, p, _ := withBroker(t, 120)
	who := signedIn(t, p, tokens.Operate)

	body := who.get("/ui/dead?queue=orders")
	wantText(t, body, "120 dead letters in 2 groups", `550 &lt;script&gt;alert(&lt;n&gt;)&lt;/script&gt;`, ">90<", ">30<", "Replay all…")
	if strings.Contains(body, "Discard") {
		t.Error("the role operate is offered to discard")
	}
	body = who.get("/ui/dead?queue=orders&show=list")
	wantText(t, body, "1 to 50", `rel="next"`)
	if n := strings.Count(body, `data-testid="letter-row"`); n != perPage {
		t.Errorf("a page has %d letters, want %d", n, perPage)
	}
	wantText(t, who.get("/ui/dead?queue=orders&show=list&skip=100"), "101 to 120", `rel="prev"`)
	body = who.get("/ui/dead?queue=orders&order=new&filter=" + url.QueryEscape("reason = permanent and body.n > 10"))
	wantText(t, body, "1 to 27", `<span class="ctl">\u202e</span><span class="ctl">\x1b</span>`)
	wantText(t, who.get("/ui/dead?queue=orders&filter="+url.QueryEscape("reason = gone")), "None of 120 dead letters matches")

	body = who.get("/ui/dead/letter?queue=orders&id=m-4")
	wantText(t, body, "permanent", `https://jaeger.example.net/trace/0af7651916cd43dd8448eb211c80319c`, `&#34;text&#34;: &#34;&lt;b&gt;4&lt;/b&gt;&#34;`, "tenant", "content-type")
	if w := who.ask(http.MethodGet, "/ui/dead/letter?queue=orders&id=gone", nil); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "of 120 looked at") {
		t.Errorf("one that is not there: got %d: %s", w.Code, w.Body)
	}

	// What is wrong is said, and bounds hold.
	for query, want := range map[string]string{
		"queue=orders&filter=reason+%3D":                          "the filter is wrong at character 9",
		"queue=orders&skip=-1":                                    "it must be a whole number from 0",
		"queue=orders&filter=" + strings.Repeat("x", maxFilter+1): "4000 are allowed",
		"queue=" + strings.Repeat("x", 256):                       "the name of the queue is none",
	} {
		if w := who.ask(http.MethodGet, "/ui/dead?"+query, nil); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%.60s: got %d: %s", query, w.Code, w.Body)
		}
	}
	wantText(t, who.get("/ui/dead?queue=nowhere"), "there is no queue nowhere.dead")
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead") == 120 }, "all stay where they are")
}

func TestReplayingDeadLetters(t *testing.T) {
	t.Parallel()
	v, p, log := withBroker(t, 40)
	who := signedIn(t, p, tokens.Operate)

	wantText(t, who.get("/ui/dead/replay?queue=orders&filter="+url.QueryEscape("reason = permanent")), "<strong>10 dead letters</strong>", "Nothing has been done yet", "Replay 10 dead letters")
	j := who.begin(p, "/ui/dead/replay", url.Values{"queue": {"orders"}, "id": {"m-1"}})
	if view := j.view(admin); view.Done.Done != 1 || view.Level != "ok" || view.Outcome != "replayed 1 message of orders" {
		t.Errorf("one: got %+v", view)
	}
	j = who.begin(p, "/ui/dead/replay", url.Values{"queue": {"orders"}, "filter": {"reason = permanent"}, "rate": {"1000"}, "limit": {"9"}})
	if view := j.view(admin); view.Done.Done != 9 || view.Level != "ok" {
		t.Errorf("by a filter: got %+v", view)
	}
	wantText(t, who.get("/ui/job?id="+j.ID), "replayed 9 messages of orders", "those that match reason = permanent, the first 9 of them")
	wantText(t, who.get("/ui/jobs"), "replay of <bdi>orders</bdi>")
	if got := v.Ready(t, "orders"); got != 10 {
		t.Errorf("the queue has %d messages, want 10", got)
	}

	// Nobody works the queue, so that nothing is known of the canaries: it stops by itself.
	j = who.begin(p, "/ui/dead/replay", url.Values{"queue": {"orders"}, "all": {"yes"}, "canary": {"3"}, "watch": {"2"}})
	if view := j.view(admin); view.Done.Done != 3 || view.Level != "bad" || !strings.Contains(view.Outcome, "it stopped by itself: nobody consumes orders") {
		t.Errorf("with canaries: got %+v", view)
	}

	// A job is cancelled, by whoever may.
	w := who.ask(http.MethodPost, "/ui/dead/replay", url.Values{"queue": {"orders"}, "all": {"yes"}, "rate": {"0.01"}})
	_, id, _ := strings.Cut(w.Header().Get("Location"), "id=")
	slow := p.jobs.find(id)
	wantText(t, who.get("/ui/job?id="+id), "running", "Cancel")
	wantText(t, who.get("/ui/dead?queue=orders"), "a job is at work on orders")
	if code := signedIn(t, p, tokens.View).ask(http.MethodPost, "/ui/job/cancel", url.Values{"id": {id}}).Code; code != http.StatusForbidden {
		t.Errorf("cancelled by the role view: got %d", code)
	}
	who.ask(http.MethodPost, "/ui/job/cancel", url.Values{"id": {id}})
	<-slow.done
	if view := slow.view(admin); view.Level != "warn" || !strings.Contains(view.Outcome, "then it was cancelled, and the rest is left") {
		t.Errorf("cancelled: got %+v", view)
	}
	for form, want := range map[string]string{
		"queue=orders": "nothing is marked", "queue=orders&all=yes&rate=fast": "the rate is", "queue=orders&all=yes&rate=NaN": "the rate is", "queue=orders&all=yes&canary=-1": "canary is", "all=yes": "no queue is named",
		"queue=orders&all=yes&filter=x+%3D": "there is no field x", "queue=orders&all=yes&to=other": "takes the role admin",
	} {
		values, err := url.ParseQuery(form)
		if err != nil {
			t.Fatal(err)
		}
		if w := who.ask(http.MethodPost, "/ui/dead/replay", values); w.Code < 400 || w.Code > 403 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: got %d: %s", form, w.Code, w.Body)
		}
	}
	for _, want := range []string{
		`msg="act on the page" act=replay outcome=allowed role=operate name=ada from=192.0.2.1 queue=orders filter="reason = permanent" job=`,
		`msg="job of the page has ended" act=replay outcome="replayed 9 messages of orders" role=operate name=ada queue=orders filter="reason = permanent" count=9 job=`,
		`outcome="denied: another queue takes the role admin"`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log.String())
		}
	}
}

func TestEditingADeadLetter(t *testing.T) {
	t.Parallel()
	v, p, _ := withBroker(t, 5)
	who := signedIn(t, p, tokens.Admin)
	body := who.get("/ui/dead/edit?queue=orders&id=m-1")
	wantText(t, body, "\n{&#34;n&#34;:1,&#34;text&#34;:&#34;&lt;b&gt;1&lt;/b&gt;&#34;}</textarea>")
	field := func(body, name string) string {
		t.Helper()
		m := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(body)
		if m == nil {
			t.Fatalf("there is no field %s in %s", name, body)
		}
		return strings.ReplaceAll(m[1], "&#43;", "+")
	}
	form := url.Values{"queue": {"orders"}, "id": {"m-1"}, "before": {field(body, "before")}, "body": {"{\"n\":2,\r\n\"text\":\"c\"}"}}
	body = who.ask(http.MethodPost, "/ui/dead/edit", form).Body.String()
	wantText(t, body, `<span class="del">- {&#34;n&#34;:1`, `<span class="add">&#43; {&#34;n&#34;:2,</span>`, "Replay with this body")
	broken := url.Values{"queue": {"orders"}, "id": {"m-1"}, "before": form["before"], "body": {"{"}}
	wantText(t, who.ask(http.MethodPost, "/ui/dead/edit", broken).Body.String(), "It was JSON, and is none any more")

	j := who.begin(p, "/ui/dead/edited", url.Values{"queue": {"orders"}, "id": {"m-1"}, "before": form["before"], "body": {field(body, "body")}})
	if view := j.view(admin); view.Done.Done != 1 || view.Level != "ok" {
		t.Fatalf("got %+v", view)
	}
	if got := v.Drain(t, "orders"); len(got) != 1 || string(got[0].Body) != "{\"n\":2,\n\"text\":\"c\"}" || got[0].MessageId != "m-1" || got[0].Headers["x-warren-edited"] == nil {
		t.Errorf("got %+v", got)
	}
	// One that is not what was edited stays.
	j = who.begin(p, "/ui/dead/edited", url.Values{"queue": {"orders"}, "id": {"m-2"}, "before": form["before"], "body": {"e30="}})
	if view := j.view(admin); view.Done.Done != 0 || view.Done.Left != 1 || !strings.Contains(view.Outcome, errChanged.Error()) {
		t.Errorf("one that has changed: got %+v", view)
	}
}

// What cannot be published is met once more after the canaries, and counts once.
func TestACanaryThatCannotBePublished(t *testing.T) {
	t.Parallel()
	v, p, _ := withBroker(t, 0)
	// It has no room for the header that replaying adds.
	full := amqp.Publishing{MessageId: "full", Headers: amqp.Table{"fill": strings.Repeat("x", 131_020)}}
	v.Publish(t, "orders.dead", full)
	bury(t, v, "orders", 20)
	if _, err := v.Channel(t).Consume("orders", "", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	j := signedIn(t, p, tokens.Operate).begin(p, "/ui/dead/replay", url.Values{"queue": {"orders"}, "all": {"yes"}, "canary": {"20"}, "limit": {"21"}, "watch": {"2"}})
	if view := j.view(admin); view.Done.Done != 20 || view.Done.Left != 1 || view.Done.Matched != 21 || !strings.Contains(view.Outcome, "; 1 was left, since it cannot be published: ") {
		t.Errorf("got %+v", view)
	}
	v.Publish(t, "orders.dead", full)
	j = signedIn(t, p, tokens.Operate).begin(p, "/ui/dead/replay", url.Values{"queue": {"orders"}, "all": {"yes"}})
	if view := j.view(admin); !strings.Contains(view.Outcome, "; 2 were left, since they cannot be published: ") {
		t.Errorf("of two: got %+v", view)
	}
}

// What a list keeps of a dead letter is bounded, and so is how many it keeps.
func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	v, p, _ := withBroker(t, 0)
	v.Publish(t, "orders.dead", amqp.Publishing{MessageId: "m", Headers: amqp.Table{"x-warren-reason": strings.Repeat("r", 100_000)}})
	who := signedIn(t, p, tokens.Admin)
	for _, at := range []string{"/ui/dead?queue=orders", "/ui/dead?queue=orders&show=list", "/ui/message?id=m", "/ui/dead/replay?queue=orders&all=yes", "/ui/dead/discard?queue=orders&all=yes"} {
		if body := who.get(at); len(body) > 50_000 {
			t.Errorf("%s: got %d bytes", at, len(body))
		}
	}
	const far = "/ui/dead?queue=orders&show=list&skip=10050"
	who.get(far)
	if w := who.ask(http.MethodGet, far+"&order=new", nil); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "from 0 to 10000") {
		t.Errorf("far back from the newest: got %d: %s", w.Code, w.Body)
	}
}

func TestDiscardingDeadLetters(t *testing.T) {
	t.Parallel()
	v, p, log := withBroker(t, 150)
	who := signedIn(t, p, tokens.Admin)
	wantText(t, who.get("/ui/dead/discard?queue=orders&all=yes"), "<strong>150 dead letters</strong>", "Type the name of the queue", "Discard 150 dead letters")
	if w := who.ask(http.MethodPost, "/ui/dead/discard", url.Values{"queue": {"orders"}, "all": {"yes"}}); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "type the name of the queue") {
		t.Errorf("without the name: got %d: %s", w.Code, w.Body)
	}
	j := who.begin(p, "/ui/dead/discard", url.Values{"queue": {"orders"}, "filter": {"reason = permanent"}, "confirmed": {"yes"}})
	view := j.view(admin)
	if view.Done.Done != 38 || view.Level != "ok" || view.Archive == "" {
		t.Fatalf("got %+v", view)
	}
	wantText(t, who.get("/ui/job?id="+j.ID), "discarded 38 messages of orders", "/ui/archive?name=orders.dead-")
	w := who.ask(http.MethodGet, "/ui/archive?name="+url.QueryEscape(view.Archive), nil)
	if lines := strings.Count(w.Body.String(), "\n"); w.Code != http.StatusOK || lines != 38 || !strings.Contains(w.Header().Get("Content-Disposition"), "attachment; filename=\"orders.dead-") {
		t.Errorf("the archive: got %d, %d lines and %v", w.Code, lines, w.Header())
	}
	for _, name := range []string{"", "../page.go", "/etc/passwd", view.Archive + "/../" + view.Archive} {
		if code := who.ask(http.MethodGet, "/ui/archive?name="+url.QueryEscape(name), nil).Code; code != http.StatusNotFound {
			t.Errorf("archive %q: got %d, want 404", name, code)
		}
	}
	j = who.begin(p, "/ui/dead/discard", url.Values{"queue": {"orders"}, "all": {"yes"}, "typed": {"orders"}, "archive": {"none"}})
	if view := j.view(admin); view.Done.Done != 112 || view.Archive != "" {
		t.Errorf("all: got %+v", view)
	}
	if n := v.Ready(t, "orders.dead"); n != 0 {
		t.Errorf("%d are left", n)
	}
	entries, err := os.ReadDir(p.cfg.Archives)
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v archives, with error %v", entries, err)
	}
	if !strings.Contains(log.String(), `act=download outcome=allowed`) {
		t.Error("a download is not in the log")
	}
	// A folder that others can write to is not used.
	p.cfg.Archives = t.TempDir() + "/open"
	if err := os.Mkdir(p.cfg.Archives, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p.cfg.Archives, 0o777); err != nil { //nolint:gosec // that is the fault
		t.Fatal(err)
	}
	bury(t, v, "orders", 1)
	j = who.begin(p, "/ui/dead/discard", url.Values{"queue": {"orders"}, "all": {"yes"}, "confirmed": {"yes"}})
	if view := j.view(admin); view.Done.Done != 0 || view.Level != "bad" || !strings.Contains(view.Outcome, "not a folder of the daemon's user alone") {
		t.Errorf("into a folder of everybody's: got %+v", view)
	}
}

// A job whose daemon is stopped says how far it has come, and loses nothing.
func TestStoppingDuringAJob(t *testing.T) {
	t.Parallel()
	v, p, log := withBroker(t, 30)
	who := signedIn(t, p, tokens.Operate)
	w := who.ask(http.MethodPost, "/ui/dead/replay", url.Values{"queue": {"orders"}, "all": {"yes"}, "rate": {"1"}})
	_, id, _ := strings.Cut(w.Header().Get("Location"), "id=")
	j := p.jobs.find(id)
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return j.view(admin).Done.Done > 0 }, "some are replayed")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if view := j.view(admin); !strings.Contains(view.Outcome, "then the daemon was stopped, and the rest is left") {
		t.Errorf("got %+v", view)
	}
	if !strings.Contains(log.String(), "then the daemon was stopped") {
		t.Errorf("the log has\n%s", log.String())
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Ready(t, "orders.dead")+v.Ready(t, "orders") == 30 }, "each is in one of the queues")
}

func TestIDsOfForms(t *testing.T) {
	for _, id := range []string{"order-1", `"quoted"`, " a ", "a\r\nb", "\xff\x00", "~0af765", "ä\u202e"} {
		got, err := readID(idParam(id))
		if err != nil || got != id {
			t.Errorf("%q is %q as a parameter, which is read as %q with error %v", id, idParam(id), got, err)
		}
	}
	if !slices.Equal([]string{idParam("order-1")}, []string{"order-1"}) {
		t.Error("a plain id is changed")
	}
}

func TestDifference(t *testing.T) {
	got := difference("a\nb\nc\nd\ne", "a\nb\nX\nd\ne")
	want := []diffLine{{" ", "b"}, {"-", "c"}, {"+", "X"}, {" ", "d"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
