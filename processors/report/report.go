// Package report makes a file of what a named SQL query returns, for each delivery.
//
// The body of a delivery is a JSON object:
//
//	{
//	  "report": "sales",                       the file sales.sql of REPORTS
//	  "format": "csv",                         or json, html, xlsx; without it csv
//	  "params": {"since": "2026-01-01"},       as the file declares them
//	  "mail": {                                if it is to be sent as well
//	    "to": "ada@example.com",               as for the email processor, as are
//	    "subject": "...", "text": "..."        cc, bcc and reply_to
//	  }
//	}
//
// The query can only read. The file appears in OUTPUT when it is complete, under a
// name made of the report's and of the delivery, so that a repeat replaces it. The
// result is a JSON object with location, rows, bytes and sha256.
//
// A message that is at fault, or whose query is, is dead-lettered. All else is tried
// again; no attempt is counted while the database, the bucket or the mail server is away,
// or the disk full.
package report

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/database"
	"github.com/warrenmq/warren/processors/internal/disk"
	"github.com/warrenmq/warren/processors/internal/mail"
	"github.com/warrenmq/warren/processors/internal/statement"
	"github.com/warrenmq/warren/processors/internal/strictjson"
	"github.com/warrenmq/warren/processors/registry"
)

// Config is what a report processor is made from.
type Config struct {
	// Reports is a folder with NAME.sql, read once at start. Required.
	Reports string `envconfig:"REPORTS" required:"true" desc:"A folder with NAME.sql, the reports."`
	// SourceURL is that of the database to read from. Empty means the daemon's, if it
	// has one.
	SourceURL string `envconfig:"SOURCE_URL" secret:"true" desc:"The database to read from: postgres://user:password@host:5432/name or sqlite:/path/of/the/file; not set, WARREN_DATABASE_URL."`
	// Output is a folder, made if it is absent, or a bucket: s3://name, with
	// ?region=, ?endpoint= of a store other than Amazon's, and ?prefix= before each
	// name. The credentials are in AWS's own variables, a file that they name, or
	// the machine's role. Required.
	Output string `envconfig:"OUTPUT" required:"true" desc:"Where the reports go: a folder, or a bucket such as s3://name?region=eu-west-1&prefix=reports/, with AWS's own variables for the credentials."`
	// SMTPURL, Maildir and From are as for the email processor. Without the first
	// two no report can be mailed.
	SMTPURL string `envconfig:"SMTP_URL" secret:"true" desc:"The server for reports that are to be mailed, as for the processor email; not set, none can be."`
	Maildir string `envconfig:"MAILDIR" desc:"A Maildir folder to put such mails into instead of sending them."`
	From    string `envconfig:"FROM" desc:"The sender of such mails, such as \"Shop <shop@example.com>\"."`
	// AttachmentMaxBytes is the largest report that is attached to its mail. A
	// larger one's location is in the mail.
	AttachmentMaxBytes int64 `envconfig:"ATTACHMENT_MAX_BYTES" default:"5000000" positive:"true" desc:"The largest report to attach to its mail, in bytes; of a larger one the mail tells the location."`
}

// Validate reads the reports. The error names every fault of c.
func (c *Config) Validate(q registry.Queue) error {
	url := cmp.Or(c.SourceURL, q.DatabaseURL)
	var faults [4]error
	_, faults[0] = loadReports(c.Reports, url)
	faults[1] = checkSource(url)
	faults[2] = checkOutput(c.Output)
	if c.mails() {
		faults[3] = c.mail().Validate()
	}
	return errors.Join(faults[:]...)
}

// Open returns the processor of a queue. It removes what a killed process has left in
// the output folder. The processor is an [io.Closer].
func (c *Config) Open(q registry.Queue, log *slog.Logger) (consumer.Processor, error) {
	url := cmp.Or(c.SourceURL, q.DatabaseURL)
	readURL := q.ReadDatabaseURL
	if c.SourceURL != "" {
		readURL = nil
	}
	p := &processor{attachmentMaxBytes: c.AttachmentMaxBytes}
	var faults [4]error
	p.reports, faults[0] = loadReports(c.Reports, url)
	p.source, faults[1] = newSource(url, readURL, q.Concurrency)
	p.output, faults[2] = newOutput(c.Output)
	if c.mails() {
		p.sender, faults[3] = c.mail().Open(q.Concurrency, log.With("queue", q.Name))
	}
	if err := errors.Join(faults[:]...); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

var _ registry.Checker = (*Config)(nil)

// Check has the database parse every report, and greets the mail server where there is
// one.
func (c *Config) Check(ctx context.Context, q registry.Queue) (string, error) {
	url := cmp.Or(c.SourceURL, q.DatabaseURL)
	reports, err := loadReports(c.Reports, url)
	if err != nil {
		return "", err
	}
	db, err := database.OpenTraceless(url)
	if err != nil {
		return "", fmt.Errorf("SOURCE_URL %w", err)
	}
	found, err := reports.Check(ctx, db)
	err = errors.Join(err, db.Close())
	if c.mails() {
		server, failed := c.mail().Check(ctx)
		found, err = found+"; "+server, errors.Join(err, failed)
	}
	return found, err
}

// loadReports reads the reports. Each only reads: what also acts beyond the transaction,
// such as COPY TO PROGRAM, ATTACH and VACUUM INTO, no transaction would hold back.
func loadReports(dir, url string) (*statement.Set, error) {
	return statement.Load("REPORTS", dir, "report", statement.DialectOf(url), "SELECT", "WITH", "VALUES", "TABLE")
}

// mails tells whether reports of the queue can be mailed.
func (c *Config) mails() bool { return c.SMTPURL != "" || c.Maildir != "" || c.From != "" }

func (c *Config) mail() mail.Config {
	return mail.Config{SMTPURL: c.SMTPURL, Maildir: c.Maildir, From: c.From}
}

type processor struct {
	reports            *statement.Set
	source             *source
	output             output
	sender             *mail.Sender // nil: none
	attachmentMaxBytes int64
}

var (
	_ consumer.Processor = (*processor)(nil)
	_ io.Closer          = (*processor)(nil)
)

// A message is the body of a delivery. Other fields are refused: a slip in a name must
// not make another report than was asked for.
type message struct {
	Report string                     `json:"report"`
	Format string                     `json:"format"`
	Params map[string]json.RawMessage `json:"params"`
	Mail   *mailRequest               `json:"mail"`
}

// A result is what a publisher that set reply-to is answered.
type result struct {
	Location string `json:"location"`
	Rows     int64  `json:"rows"`
	Bytes    int64  `json:"bytes"`
	SHA256   string `json:"sha256"`
}

// Process makes the report that the body of d asks for.
func (p *processor) Process(ctx context.Context, d consumer.Delivery, scope *consumer.Scope) error {
	var msg message
	if err := strictjson.Body(d, &msg, "report, format, params, mail [to, cc, bcc, reply_to, subject, text]"); err != nil {
		return err
	}
	query, err := p.reports.Bind(msg.Report, msg.Params)
	if err != nil {
		return err
	}
	if msg.Format == "" {
		msg.Format = "csv"
	}
	format, ok := formats[msg.Format]
	if !ok {
		return consumer.Permanent(fmt.Errorf("format is %q; it must be csv, json, html or xlsx", msg.Format))
	}
	if msg.Mail != nil && p.sender == nil {
		return consumer.Permanent(errors.New("mail is set, but no report can be mailed: set SMTP_URL and FROM of the queue"))
	}
	made, attachment, err := p.make(ctx, d, query, format, msg.Mail != nil, scope)
	if err != nil {
		return fmt.Errorf("report %s: %w", query.Name, disk.Verdict(err))
	}
	if msg.Mail != nil {
		if err := p.send(ctx, d, msg.Mail, mailed{query.Name, format, *made, attachment}); err != nil {
			return fmt.Errorf("mail the report at %s: %w", made.Location, err)
		}
	}
	body, err := json.Marshal(made)
	if err != nil {
		return err
	}
	scope.SetResult(consumer.Result{Body: body})
	return nil
}

// make makes the file and has it appear in the output, within the time that the
// query may take. It returns the content, too, if that is to be kept for a mail and
// is not too large for it.
func (p *processor) make(ctx context.Context, d consumer.Delivery, query *statement.Bound, format format, keep bool, scope *consumer.Scope) (*result, []byte, error) {
	ctx, cancel := query.Limit(ctx)
	defer cancel()
	f, err := p.output.create(scope)
	if err != nil {
		return nil, nil, fmt.Errorf("create the file: %w", err)
	}
	defer f.discard()
	rows, err := p.source.read(ctx, query, format.encoder(f, query.Name))
	if err != nil {
		return nil, nil, statement.Ended(ctx, err)
	}
	if err := f.complete(); err != nil {
		return nil, nil, fmt.Errorf("write the file: %w", err)
	}
	var attachment []byte
	if keep && f.bytes <= p.attachmentMaxBytes {
		attachment = make([]byte, f.bytes)
		if _, err := f.file.ReadAt(attachment, 0); err != nil {
			return nil, nil, fmt.Errorf("read the file: %w", err)
		}
	}
	location, err := p.output.publish(ctx, f, fileName(d, query.Name)+format.extension, format.contentType)
	if err != nil {
		return nil, nil, statement.Ended(ctx, err)
	}
	return &result{location, rows, f.bytes, hex.EncodeToString(f.sum.Sum(nil))}, attachment, nil
}

// fileName is the same whenever d is delivered again, and that of no other.
func fileName(d consumer.Delivery, report string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%s", d.Queue, d.MessageID, d.Body) // an id alone may be that of several messages
	return report + "-" + hex.EncodeToString(h.Sum(nil)[:8])
}

// Close closes what is kept open. No Process may be under way.
func (p *processor) Close() error {
	var errs []error
	if p.source != nil {
		errs = append(errs, p.source.db.Close())
	}
	if p.output != nil {
		errs = append(errs, p.output.Close())
	}
	if p.sender != nil {
		errs = append(errs, p.sender.Close())
	}
	return errors.Join(errs...)
}
