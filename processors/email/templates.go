package email

import (
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	texttemplate "text/template"
)

// templates are the templates of a folder by name: that of their files, without
// .html or .txt. A message can ask for these and for nothing else of the disk.
type templates map[string]*template

// A template has a text, an HTML or both.
type template struct {
	text    *texttemplate.Template
	html    *htmltemplate.Template
	subject *texttemplate.Template // nil if neither file defines it
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
	if filepath.Ext(file) == ".txt" {
		t.text = text
		return nil
	}
	t.html, err = htmltemplate.New(file).Option(missingKey).Parse(string(content))
	if err != nil {
		return err
	}
	// What html/template finds wrong with the HTML it says at the first use only.
	// This one ends with the first byte written or key missed.
	err = t.html.Execute(refuse{}, map[string]any{})
	if fault, ok := errors.AsType[*htmltemplate.Error](err); ok {
		return fault
	}
	return nil
}

// refuse is a writer that takes nothing.
type refuse struct{}

func (refuse) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// render makes the content of a mail from the template of that name.
func (ts templates) render(name string, data map[string]any) (rendered, error) {
	var r rendered
	t := ts[name]
	if t == nil && ts == nil {
		return r, fmt.Errorf("template is %q, but TEMPLATES is not set: set it to the folder that has it", name)
	}
	if t == nil {
		return r, fmt.Errorf("template is %q, but there are only: %s", name, strings.Join(slices.Sorted(maps.Keys(ts)), ", "))
	}
	execute := func(f func(io.Writer, any) error) (string, error) {
		var out strings.Builder
		if err := f(&out, data); err != nil {
			return "", fmt.Errorf("template %s does not go with data: %w", name, err)
		}
		return out.String(), nil
	}
	var err error
	if t.text != nil {
		if r.text, err = execute(t.text.Execute); err != nil {
			return r, err
		}
		if strings.TrimSpace(r.text) == "" {
			r.text = "" // a .txt file that only defines the subject
		}
	}
	if t.html != nil {
		if r.html, err = execute(t.html.Execute); err != nil {
			return r, err
		}
	}
	if t.subject != nil {
		r.subject, err = execute(t.subject.Execute)
		r.subject = strings.TrimSpace(r.subject) // the line breaks around it
	}
	return r, err
}
