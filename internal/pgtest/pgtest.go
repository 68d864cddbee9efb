// Package pgtest is the bench of the tests against a real PostgreSQL.
//
// [URL] gives each test a database of its own, on a private server that the first
// test of a package starts. A test that is to stop or kill its server starts one
// with [Start]. What is written is synced to disk, as in production.
//
// The server is Debian's package postgresql; the variable POSTGRES_BIN may name
// another folder with initdb and postgres. Neither runs as root: under root they
// are run as postgres or nobody. The package is for Linux.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/warrenmq/warren/internal/freeport"
)

const (
	userName = "warren"
	// Password is the one in the URLs, which must never be seen in a log.
	Password = "hunter2"
)

// startTimeout is for machines that start several servers at once.
const startTimeout = 10 * time.Minute

// A Server is a private PostgreSQL server. It ends with this process at the latest.
type Server struct {
	dir   string
	bin   string
	port  int
	as    *syscall.SysProcAttr
	cmd   *exec.Cmd // nil: not running
	leash io.Closer
}

// shared is the server of the test package.
var shared = sync.OnceValues(func() (*Server, error) { return start(context.Background()) })

var databases struct {
	sync.Mutex
	count int
}

// URL is that of a new, empty database on the server of the test package.
func URL(t testing.TB) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	databases.Lock()
	databases.count++
	name := "test" + strconv.Itoa(databases.count)
	databases.Unlock()
	if err := s.execute(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return s.url(name)
}

// Start starts a server for the test alone, whose end ends it.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := start(t.Context())
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		s.end(syscall.SIGQUIT)
		_ = s.leash.Close()
	})
	return s
}

// URL is that of the server's own, empty database.
func (s *Server) URL() string { return s.url("postgres") }

// Addr is the host and port where the server listens.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

func (s *Server) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(userName, Password), Host: s.Addr(), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// Stop ends the server in an orderly way: it closes its connections, and blocks
// until nothing of it is running.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Kill ends the server at once, without a word to its clients, as a crash does, and
// blocks until nothing of it is running.
func (s *Server) Kill() { s.end(syscall.SIGQUIT) }

// Restart starts the server again with the same port and data, and blocks until it
// accepts connections.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.launch(t.Context()); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
}

func (s *Server) end(how syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(how)
	_ = s.cmd.Wait() // how it ended is in its own log
	s.cmd = nil
}

func start(ctx context.Context) (*Server, error) {
	bin, err := findBin()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, as: &syscall.SysProcAttr{Setpgid: true}} // a Ctrl-C is not for it
	if s.dir, err = os.MkdirTemp("", "pgtest-"); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		if err := s.dropRoot(); err != nil {
			return nil, err
		}
	}
	if s.port, err = freeport.Port(); err != nil {
		return nil, err
	}
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte(Password), 0o644); err != nil {
		return nil, err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--no-sync", "--username", userName, "--pwfile", password,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "-D", s.data())
	initdb.Dir, initdb.SysProcAttr = s.dir, s.as
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", initdb.Args, err, out)
	}
	if err := s.hold(); err != nil {
		return nil, err
	}
	return s, s.launch(ctx)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// dropRoot has what is run belong to somebody else, and the folder, too.
func (s *Server) dropRoot() error {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return os.Chown(s.dir, uid, gid)
	}
	return errors.New("PostgreSQL does not run as root, and there is no account postgres or nobody to run it as")
}

// hold starts a process that waits for the end of this one, whatever ends it, to
// end the server and to remove its folder.
func (s *Server) hold() error {
	const wait = `cat; kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")" 2>/dev/null
for i in 1 2 3 4 5 6 7 8 9; do rm -rf -- "$1" && exit; sleep 0.2; done`
	cmd := exec.Command("/bin/sh", "-c", wait, "pgtest", s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	s.leash = stdin
	return cmd.Start()
}

// launch starts the server and blocks until it accepts connections.
func (s *Server) launch(ctx context.Context) error {
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // what runs has its own
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data(), "-k", s.dir, "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200")
	cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = s.dir, s.as, log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	s.cmd = cmd
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := s.execute(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			s.end(syscall.SIGQUIT)
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("PostgreSQL did not come up: %w; its log:\n%s", err, text)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *Server) execute(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}

// findBin returns the folder of the newest PostgreSQL there is.
func findBin() (string, error) {
	if bin := os.Getenv("POSTGRES_BIN"); bin != "" {
		return bin, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", errors.New("there is no PostgreSQL; install it with: apt-get install postgresql (make test does), or name its folder in POSTGRES_BIN")
	}
	return filepath.Dir(slices.Max(found)), nil
}
