package email

import (
	"context"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	texttemplate "text/template"

	"github.com/warrenmq/warren/consumer"
)

// templates are the templates of a folder by name: that of their files, without
// .html or .txt. A message can ask for these and for nothing else of the disk.
type templates map[string]*template

// A template has a text, an HTML or both.
type template struct {
	text    *texttemplate.Template
	html    *htmltemplate.Template
	subject *texttemplate.Template // nil if neither file defines it

	executions sync.Pool // of *execution, to be used again
}

// rendered is the content of a mail.
type rendered struct{ subject, text, html string }

const missingKey = "missingkey=error"

// loadTemplates reads the templates of a folder; of none if dir is empty. The error
// names every file that cannot be used, with the line.
func loadTemplates(dir string) (templates, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("TEMPLATES: %w", err)
	}
	all := make(templates)
	var faults []error
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.IsDir() || ext != ".html" && ext != ".txt" {
			continue
		}
		name := strings.TrimSuffix(e.Name(), ext)
		if all[name] == nil {
			all[name] = new(template)
		}
		if err := all[name].parse(dir, e.Name()); err != nil {
			faults = append(faults, fmt.Errorf("TEMPLATES: %s: %w", dir, err))
		}
	}
	if len(all) == 0 {
		faults = append(faults, fmt.Errorf("TEMPLATES: %s has no .html or .txt file: name the folder that has them, or leave it unset", dir))
	}
	return all, errors.Join(faults...)
}

func (t *template) parse(dir, file string) error {
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err
	}
	text, err := texttemplate.New(file).Option(missingKey).Parse(string(content))
	if err != nil {
		return err
	}
	// A subject is plain text also where it stands in the HTML file.
	if subject := text.Lookup("subject"); subject != nil {
		if t.subject != nil {
			return fmt.Errorf("%s defines the subject, and so does its .html file: keep one of them", file)
		}
		t.subject = subject
	}
	instrumentText(text)
	if filepath.Ext(file) == ".txt" {
		t.text = text
		return nil
	}
	if t.html, err = htmltemplate.New(file).Option(missingKey).Parse(string(content)); err != nil {
		return err
	}
	instrumentHTML(t.html)
	// What html/template finds wrong with the HTML it says at the first use only.
	// This one ends with the first byte written or key missed.
	e, err := t.newExecution()
	if err != nil {
		return err
	}
	e.begin(context.Background())
	err = e.html.Execute(refuse{}, map[string]any{})
	if fault, ok := errors.AsType[*htmltemplate.Error](err); ok {
		return fault
	}
	return nil
}

// refuse is a writer that takes nothing.
type refuse struct{}

func (refuse) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// render makes the content of a mail from the template of that name.
func (ts templates) render(ctx context.Context, name string, data map[string]any) (rendered, error) {
	t := ts[name]
	if t == nil && ts == nil {
		return rendered{}, consumer.Permanent(fmt.Errorf("template is %q, but TEMPLATES is not set: set it to the folder that has it", name))
	}
	if t == nil {
		return rendered{}, consumer.Permanent(fmt.Errorf("template is %q, but there are only: %s", name, strings.Join(slices.Sorted(maps.Keys(ts)), ", ")))
	}
	r, err := t.render(ctx, data)
	switch {
	case err == nil:
		return r, nil
	case ctx.Err() != nil:
		return r, fmt.Errorf("template %s: %w", name, context.Cause(ctx))
	case errors.Is(err, errTooLong):
		return r, consumer.Permanent(fmt.Errorf("template %s: %w", name, errTooLong))
	case errors.Is(err, errTooOften): // without where, which is in code that is not the template's
		return r, consumer.Permanent(fmt.Errorf("template %s: %w", name, errTooOften))
	}
	return r, consumer.Permanent(fmt.Errorf("template %s does not go with data: %w", name, err))
}

func (t *template) render(ctx context.Context, data map[string]any) (r rendered, err error) {
	e, ok := t.executions.Get().(*execution)
	if !ok {
		if e, err = t.newExecution(); err != nil {
			return r, err
		}
	}
	defer t.executions.Put(e)
	e.begin(ctx)
	if e.text != nil {
		if r.text, err = e.execute(e.text, data); err != nil {
			return r, err
		}
		if strings.TrimSpace(r.text) == "" {
			r.text = "" // a .txt file that only defines the subject
		}
	}
	if e.html != nil {
		if r.html, err = e.execute(e.html, data); err != nil {
			return r, err
		}
	}
	if e.subject != nil {
		r.subject, err = e.execute(e.subject, data)
		r.subject = strings.TrimSpace(r.subject) // the line breaks around it
	}
	return r, err
}
