package report

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/internal/rabbittest"
)

// A repeat replaces the file of its own delivery, and of no other.
func TestNames(t *testing.T) {
	source := sqliteURL(t)
	execute(t, source, "CREATE TABLE here (n int)")
	dir := filepath.Join(t.TempDir(), "made", "if absent [*]")
	cfg := Config{Reports: reports(t, map[string]string{"n": "SELECT count(*) AS n FROM here", "m": "SELECT 1 AS m"}), SourceURL: source, Output: dir}
	p := newProcessor(t, cfg)
	first, content := made(t, p, `{"report": "n"}`)
	if content != "n\r\n0\r\n" || !strings.HasPrefix(first.Location, dir+"/n-") {
		t.Errorf("got %q at %s", content, first.Location)
	}
	execute(t, source, "INSERT INTO here VALUES (1)")
	if second, content := made(t, newProcessor(t, cfg), `{"report": "n"}`); second.Location != first.Location || content != "n\r\n1\r\n" {
		t.Errorf("the repeat made %q at %s, want it at %s", content, second.Location, first.Location)
	}
	locations := map[string]bool{first.Location: true}
	for _, d := range []consumer.Delivery{
		{Queue: "reports", MessageID: "m2", Body: []byte(`{"report": "n"}`)},
		{Queue: "others", MessageID: "m1", Body: []byte(`{"report": "n"}`)},
		{Queue: "reports", MessageID: "m1", Body: []byte(`{"report": "n", "format": "csv"}`)}, // an id that was used twice
		{Queue: "reports", MessageID: "m1", Body: []byte(`{"report": "m"}`)},
	} {
		answer, err := consumertest.Run(t.Context(), p, d)
		if err != nil {
			t.Fatal(err)
		}
		var r result
		if err := json.Unmarshal(answer.Body, &r); err != nil {
			t.Fatal(err)
		}
		if locations[r.Location] {
			t.Errorf("%+v replaced %s", d, r.Location)
		}
		locations[r.Location] = true
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != len(locations) {
		t.Errorf("there are %d files, %v, want %d", len(files), err, len(locations))
	}
}

// What a killed process has left is removed at the start, but not what another one
// is writing, or what is none of ours.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	o, err := newFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := o.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer alive.discard()
	left := filepath.Join(dir, draftPrefix+"ABC"+draftSuffix)
	other := filepath.Join(dir, "report.csv")
	for _, path := range []string{left, other} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := newFolder(dir); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{left: false, other: true, alive.file.Name(): true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", path, err, want)
		}
	}
}

// A store is an S3-compatible server in this process. While blocked, it takes
// requests and answers none.
type store struct {
	*gofakes3.GoFakeS3
	url     string
	fail    atomic.Pointer[string] // the code of the error that a PUT is answered with
	status  int
	uploads atomic.Int64 // that began
	blocked chan struct{}
}

func newStore(t *testing.T) *store {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("shop"); err != nil {
		t.Fatal(err)
	}
	s := &store{GoFakeS3: gofakes3.New(backend)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			s.uploads.Add(1)
		}
		if code := s.fail.Load(); code != nil && r.Method == http.MethodPut {
			http.Error(w, "<Error><Code>"+*code+"</Code><Message>not now</Message></Error>", s.status)
			return
		}
		if s.blocked != nil {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-s.blocked:
			case <-r.Context().Done():
			}
		}
		s.Server().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url = "s3://shop?region=eu-west-1&prefix=daily/&endpoint=" + server.URL
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	return s
}

// objects are the keys in the bucket, each with its size and content.
func (s *store) objects(t *testing.T) map[string]string {
	t.Helper()
	b, err := newBucket(strings.Replace(s.url, "&prefix=daily/", "", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	objects := map[string]string{}
	client := b.(*bucket).client
	for o := range client.ListObjectsIter(t.Context(), "shop", minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		r, err := client.GetObject(t.Context(), "shop", o.Key, minio.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		objects[o.Key] = string(content)
	}
	return objects
}

// large is what a client would upload in parts, unless told not to.
const large = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20000) SELECT n, hex(zeroblob(500)) AS filler FROM c"

func TestBucket(t *testing.T) {
	s := newStore(t)
	source := sqliteURL(t)
	execute(t, source, "CREATE TABLE here (n int)")
	p := newProcessor(t, Config{Reports: reports(t, map[string]string{"small": "SELECT 1 AS n", "large": large}), SourceURL: source, Output: s.url})
	for report, rows := range map[string]int64{"small": 1, "large": 20000} {
		answer, err := process(t.Context(), p, `{"report": "`+report+`"}`)
		if err != nil {
			t.Fatal(err)
		}
		var r result
		if err := json.Unmarshal(answer.Body, &r); err != nil {
			t.Fatal(err)
		}
		key, inBucket := strings.CutPrefix(r.Location, "s3://shop/")
		content := s.objects(t)[key]
		if sum := sha256.Sum256([]byte(content)); !inBucket || !strings.HasPrefix(key, "daily/"+report+"-") || r.Rows != rows ||
			r.Bytes != int64(len(content)) || r.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("got %+v, and %d bytes with the sum %x", r, len(content), sum)
		}
		t.Logf("%s: %d bytes", report, r.Bytes)
	}
	if n := len(s.objects(t)); n != 2 {
		t.Errorf("there are %d objects, want 2", n)
	}
}

func TestBucketThatRefuses(t *testing.T) {
	s := newStore(t)
	source := sqliteURL(t)
	execute(t, source, "CREATE TABLE here (n int)")
	p := newProcessor(t, Config{Reports: reports(t, map[string]string{"small": "SELECT 1 AS n", "large": large, "fails": "SELECT abs(-9223372036854775807 - 1) AS n"}), SourceURL: source, Output: s.url})
	for _, test := range []struct {
		code    string
		status  int
		verdict string
	}{
		{"AccessDenied", http.StatusForbidden, "unavailable"},
		{"SlowDown", http.StatusServiceUnavailable, "unavailable"},
		{"InternalError", http.StatusInternalServerError, "unavailable"},
		{"InvalidRequest", http.StatusBadRequest, "retry"},
	} {
		s.fail.Store(&test.code)
		s.status = test.status
		for _, report := range []string{"small", "large"} {
			_, err := process(t.Context(), p, `{"report": "`+report+`"}`)
			check(t, err, test.verdict, "report "+report+": upload to s3://shop/daily/"+report+"-", test.code)
		}
	}
	s.fail.Store(nil)
	before := s.uploads.Load()
	_, err := process(t.Context(), p, `{"report": "fails"}`)
	check(t, err, "dead", "integer overflow")
	if got := s.uploads.Load(); got != before {
		t.Errorf("%d uploads began for a report that failed", got-before)
	}

	missing := newProcessor(t, Config{Reports: reports(t, map[string]string{"small": "SELECT 1 AS n"}), SourceURL: source, Output: strings.Replace(s.url, "shop", "shed", 1)})
	_, err = process(t.Context(), missing, `{"report": "small"}`)
	check(t, err, "unavailable", "upload to s3://shed/daily/small-", "NoSuchBucket")

	away := newProcessor(t, Config{Reports: reports(t, map[string]string{"small": "SELECT 1 AS n"}), SourceURL: source, Output: "s3://shop?region=eu-west-1&endpoint=http://127.0.0.1:1"})
	_, err = process(t.Context(), away, `{"report": "small"}`)
	check(t, err, "unavailable", "upload to s3://shop/small-", "connection refused")
	if objects := s.objects(t); len(objects) != 0 {
		t.Errorf("there are %d objects, want none", len(objects))
	}
}

// An upload that is cut short leaves no object.
func TestUploadThatIsCutShort(t *testing.T) {
	s := newStore(t)
	source := sqliteURL(t)
	execute(t, source, "CREATE TABLE here (n int)")
	p := newProcessor(t, Config{Reports: reports(t, map[string]string{"small": "SELECT 1 AS n", "large": large}), SourceURL: source, Output: s.url})
	s.blocked = make(chan struct{})
	for _, report := range []string{"small", "large"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		before := s.uploads.Load()
		outcome := make(chan error, 1)
		go func() {
			_, err := process(ctx, p, `{"report": "`+report+`"}`)
			outcome <- err
		}()
		rabbittest.Eventually(t, 30*time.Second, func() bool { return s.uploads.Load() > before }, "the upload has begun")
		cancel(consumer.ErrShutdown)
		check(t, <-outcome, "retry", "report "+report+": ", consumer.ErrShutdown.Error())
	}
	close(s.blocked)
	if objects := s.objects(t); len(objects) != 0 {
		t.Errorf("there are %d objects, want none", len(objects))
	}
}
