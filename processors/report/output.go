package report

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/disk"
)

// An output is where reports go. It may be used by several goroutines.
type output interface {
	// create returns a new, empty file that nobody looks at.
	create(scope *consumer.Scope) (*draft, error)
	// publish has the complete file appear under a name, replacing what is there,
	// and returns where it is.
	publish(ctx context.Context, f *draft, name, contentType string) (string, error)
	io.Closer
}

// checkOutput returns the fault of a place that newOutput would not take. It makes
// nothing.
func checkOutput(place string) error {
	scheme, _, isURL := strings.Cut(place, "://")
	switch {
	case place == "":
		return errors.New("OUTPUT is not set: set it to a folder, or to a bucket such as s3://name")
	case !isURL:
		if err := disk.CheckFolder(place); err != nil {
			return unusableFolder(err)
		}
		return nil
	case scheme == "file":
		return errors.New("OUTPUT: a folder is written without file://")
	case scheme != "s3":
		return fmt.Errorf("OUTPUT begins with %s://: it must be a folder, or a bucket such as s3://name?region=eu-west-1", scheme)
	}
	_, err := newBucket(place)
	return err
}

// newOutput makes the folder, or the client of the bucket.
func newOutput(place string) (output, error) {
	if err := checkOutput(place); err != nil {
		return nil, err
	}
	if !strings.Contains(place, "://") {
		return newFolder(place)
	}
	return newBucket(place)
}

func unusableFolder(err error) error {
	return fmt.Errorf("OUTPUT: %w: name a folder that Warren may write to", err)
}

// A draft is a file that is being written.
type draft struct {
	file  *os.File
	buf   *bufio.Writer
	sum   hash.Hash
	bytes int64
}

func newDraft(f *os.File) *draft {
	d := &draft{file: f, sum: sha256.New()}
	d.buf = bufio.NewWriterSize(io.MultiWriter(f, d.sum), 64<<10)
	return d
}

// Write adds p.
func (f *draft) Write(p []byte) (int, error) {
	f.bytes += int64(len(p))
	return f.buf.Write(p)
}

// complete writes what is left, so that it is on the disk.
func (f *draft) complete() error {
	if err := f.buf.Flush(); err != nil {
		return err
	}
	return f.file.Sync()
}

// discard removes the file, unless it has another name by now.
func (f *draft) discard() {
	_ = os.Remove(f.file.Name())
	_ = f.file.Close()
}

// A folder is one on this machine.
type folder struct{ dir string }

// What is being written has a name that begins and ends so, and is locked.
const draftPrefix, draftSuffix = ".warren-", ".draft"

// newFolder returns the folder, made if absent, without what killed processes have
// left in it.
func newFolder(dir string) (output, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o750)
	}
	if err != nil {
		return nil, unusableFolder(err)
	}
	left, err := filepath.Glob(filepath.Join(escapeGlob(dir), draftPrefix+"*"+draftSuffix))
	if err != nil {
		return nil, fmt.Errorf("OUTPUT: %w", err)
	}
	for _, path := range left {
		if err := removeLeft(path); err != nil {
			return nil, fmt.Errorf("OUTPUT: remove what a killed process has left: %w", err)
		}
	}
	return &folder{dir}, nil
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// removeLeft removes a draft that no living process has locked.
func removeLeft(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // which unlocks it
	if err := disk.Lock(f); errors.Is(err, disk.ErrLocked) {
		return nil
	} else if err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (o *folder) create(*consumer.Scope) (*draft, error) {
	f, err := os.OpenFile(filepath.Join(o.dir, draftPrefix+rand.Text()+draftSuffix), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	if err := disk.Lock(f); err != nil {
		newDraft(f).discard()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return newDraft(f), nil
}

func (o *folder) publish(_ context.Context, f *draft, name, _ string) (string, error) {
	path := filepath.Join(o.dir, name)
	if err := os.Rename(f.file.Name(), path); err != nil {
		return "", err
	}
	return path, disk.SyncDir(o.dir)
}

func (o *folder) Close() error { return nil }

// A bucket is one of a store that speaks the protocol of S3. A report is complete on
// this machine before it is uploaded, in one request: a store does not keep half of
// one, nor parts that nobody puts together.
type bucket struct {
	client       *minio.Client
	transport    *http.Transport
	name, prefix string
}

// maxObjectBytes is the most that S3 takes in one request.
const maxObjectBytes = 5 << 30

var errBucket = errors.New("OUTPUT is not of the form s3://bucket?region=eu-west-1&prefix=reports/&endpoint=https://host:port; region and prefix may be absent, " +
	"endpoint is for stores other than Amazon's, and credentials are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")

func newBucket(place string) (output, error) {
	u, err := url.Parse(place)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		return nil, errBucket
	}
	b := &bucket{name: u.Host}
	endpoint, region := &url.URL{Scheme: "https", Host: "s3.amazonaws.com"}, ""
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errBucket
	}
	for name, values := range query {
		switch v := values[len(values)-1]; name {
		case "region":
			region = v
		case "prefix":
			b.prefix = v
		case "endpoint":
			if endpoint, err = url.Parse(v); err != nil || endpoint.Scheme != "https" && endpoint.Scheme != "http" || endpoint.User != nil {
				return nil, errBucket
			}
		default:
			return nil, fmt.Errorf("%w (%q is unknown)", errBucket, name)
		}
	}
	secure := endpoint.Scheme == "https"
	if b.transport, err = minio.DefaultTransport(secure); err != nil {
		return nil, fmt.Errorf("OUTPUT: %w", err)
	}
	b.client, err = minio.New(endpoint.Host, &minio.Options{
		Secure: secure, Transport: b.transport, Region: region,
		MaxRetries: 1, // the queue's own retries hold no slot
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
		}),
	})
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", errBucket, err)
	}
	return b, nil
}

func (o *bucket) create(scope *consumer.Scope) (*draft, error) {
	dir, err := scope.TempDir()
	if err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, "report"))
	if err != nil {
		return nil, err
	}
	return newDraft(f), nil
}

func (o *bucket) publish(ctx context.Context, f *draft, name, contentType string) (string, error) {
	key := o.prefix + name
	location := "s3://" + o.name + "/" + key
	if f.bytes > maxObjectBytes {
		return "", consumer.Permanent(fmt.Errorf("it has %d bytes, and a bucket takes at most %d: ask for less with a parameter", f.bytes, int64(maxObjectBytes)))
	}
	_, err := o.client.PutObject(ctx, o.name, key, io.NewSectionReader(f.file, 0, f.bytes), f.bytes,
		minio.PutObjectOptions{ContentType: contentType, DisableMultipart: true})
	if err != nil {
		return "", fmt.Errorf("upload to %s: %w", location, bucketVerdict(ctx, err))
	}
	return location, nil
}

// bucketVerdict marks an error as unavailable if it would be that of any report: the
// store is not reached, is busy, knows no such bucket, or takes nothing from us.
func bucketVerdict(ctx context.Context, err error) error {
	reply, answered := errors.AsType[minio.ErrorResponse](err)
	if answered {
		err = fmt.Errorf("%s: %w", reply.Code, err)
	}
	switch {
	case ctx.Err() != nil:
		return err
	case !answered, reply.StatusCode >= http.StatusInternalServerError:
		return consumer.Unavailable(err)
	case slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests}, reply.StatusCode):
		return consumer.Unavailable(err)
	}
	return err
}

func (o *bucket) Close() error {
	o.transport.CloseIdleConnections()
	return nil
}
