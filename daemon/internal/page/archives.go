package page

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// ArchivesFolder is where discarded messages are kept: in the folder that systemd has for the
// daemon's state, else in one of the system's for what does not outlast it.
func ArchivesFolder() string {
	state, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	if state == "" {
		state = os.TempDir()
	}
	return filepath.Join(state, "warren-discarded")
}

// newArchive opens a new file for what is discarded of a queue. Nobody else can read it.
func (p *Page) newArchive(what string, now time.Time) (*os.File, error) {
	dir := p.cfg.Archives
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the archive: %w", err)
	}
	// In a folder of everybody's, somebody else may have made it first.
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("the archive: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || ok && int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the archive: %s is not a folder of the daemon's user alone; remove it", dir)
	}
	safe := strings.Map(func(r rune) rune {
		if r == '/' || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, cut(what, 150))
	base := filepath.Join(dir, safe+"-"+now.Format("20060102-150405"))
	for i := 1; ; i++ {
		name := base + ".jsonl"
		if i > 1 {
			name = fmt.Sprintf("%s-%d.jsonl", base, i)
		}
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) || i > 100 {
			return file, err
		}
	}
}

// An archive is a file of messages that were discarded.
type archive struct {
	Name  string
	Bytes int
	At    time.Time
}

// archives are those that there are, the newest first.
func (p *Page) archives() []archive {
	entries, _ := os.ReadDir(p.cfg.Archives) // none has been needed yet
	var all []archive
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && strings.HasSuffix(e.Name(), ".jsonl") {
			all = append(all, archive{e.Name(), int(info.Size()), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b archive) int { return b.At.Compare(a.At) })
	return all
}

// download sends an archive.
func (p *Page) download(w http.ResponseWriter, r *http.Request, s *session) {
	name := r.FormValue("name")
	i := slices.IndexFunc(p.archives(), func(a archive) bool { return a.Name == name })
	if i < 0 {
		p.fail(w, r, s, http.StatusNotFound, errors.New("there is no such archive"))
		return
	}
	file, err := os.Open(filepath.Join(p.cfg.Archives, name))
	if err != nil {
		p.fail(w, r, s, http.StatusInternalServerError, err)
		return
	}
	defer func() { _ = file.Close() }()
	p.audit(r, s, "download", "allowed", "archive", name)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Content-Disposition", `attachment; filename="`+strings.Map(func(c rune) rune {
		if c == '"' || c == '\\' || c > '~' {
			return '_'
		}
		return c
	}, name)+`"`)
	control := http.NewResponseController(w)
	for { // however long it is, as long as it is read
		_ = control.SetWriteDeadline(time.Now().Add(quickly))
		if _, err := io.CopyN(w, file, 1<<20); err != nil {
			return
		}
	}
}

// closeArchive returns the name of an archive; empty: nothing is in it, and it is gone.
func (p *Page) closeArchive(file *os.File) string {
	info, err := file.Stat()
	_ = file.Close() // each message in it is on disk
	if err == nil && info.Size() == 0 {
		_ = os.Remove(file.Name())
		return ""
	}
	return filepath.Base(file.Name())
}
