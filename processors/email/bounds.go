package email

import (
	"context"
	"fmt"
	htmltemplate "html/template"
	"io"
	"slices"
	"strings"
	texttemplate "text/template"
	"text/template/parse"
)

// Bounds of what a template makes for one mail: of its subject, text and HTML
// together. Data of a few bytes can ask for any number of repeats: {{range}} counts up
// to an integer.
const (
	maxOutputBytes = 8 << 20
	maxRepeats     = 100_000
)

var (
	errTooLong  = fmt.Errorf("it makes more than %d bytes of this data", maxOutputBytes)
	errTooOften = fmt.Errorf("it repeats its parts more than %d times with this data", maxRepeats)
)

// An execution is a copy of a template, whose functions know the mail that it is
// executed for: it is used by one goroutine at a time.
type execution struct {
	text, html, subject executor // nil: none

	ctx     context.Context // of the mail
	repeats int             // that are left
	bytes   int             // that are left
}

type executor interface {
	Execute(w io.Writer, data any) error
}

func (t *template) newExecution() (*execution, error) {
	e := new(execution)
	functions := map[string]any{functionRepeat: e.repeat, functionShown: shown}
	if t.text != nil {
		text, err := t.text.Clone()
		if err != nil {
			return nil, err
		}
		e.text = text.Funcs(functions)
	}
	if t.html != nil {
		html, err := t.html.Clone()
		if err != nil {
			return nil, err
		}
		e.html = html.Funcs(functions)
	}
	if t.subject != nil {
		subject, err := t.subject.Clone()
		if err != nil {
			return nil, err
		}
		e.subject = subject.Funcs(functions)
	}
	return e, nil
}

// begin makes e ready for another mail.
func (e *execution) begin(ctx context.Context) {
	e.ctx, e.repeats, e.bytes = ctx, maxRepeats, maxOutputBytes
}

func (e *execution) execute(part executor, data map[string]any) (string, error) {
	out := output{execution: e}
	if err := part.Execute(&out, data); err != nil {
		return "", err
	}
	return out.String(), nil
}

// An output takes as many bytes as its execution has left.
type output struct {
	strings.Builder
	execution *execution
}

func (o *output) Write(p []byte) (int, error) {
	if o.execution.bytes -= len(p); o.execution.bytes < 0 {
		return 0, errTooLong
	}
	return o.Builder.Write(p)
}

// repeat is called at each turn of a loop, and each use of a template by another: it
// ends the execution when the attempt has ended, or that was one too many.
func (e *execution) repeat() (string, error) {
	if e.repeats--; e.repeats < 0 {
		return "", errTooOften
	}
	return "", e.ctx.Err()
}

// shown is what a text writes for a value: nothing for null, as html/template does.
func shown(value any) any {
	if value == nil {
		return ""
	}
	return value
}

// The functions that are added, which a template cannot name itself.
const functionRepeat, functionShown = "_warren_repeat", "_warren_shown"

// instrumentText adds calls of repeat and shown to a template, in the way in which
// html/template adds its escapers.
func instrumentText(t *texttemplate.Template) {
	for _, part := range t.Templates() {
		instrument(part.Tree, addShown)
	}
}

func instrumentHTML(t *htmltemplate.Template) {
	for _, part := range t.Templates() {
		instrument(part.Tree, func(*parse.ActionNode) {})
	}
}

func instrument(tree *parse.Tree, action func(*parse.ActionNode)) {
	if tree != nil && tree.Root != nil { // a file that only defines others may have none
		instrumentList(tree.Root, action)
		addRepeat(tree.Root)
	}
}

func instrumentList(list *parse.ListNode, action func(*parse.ActionNode)) {
	if list == nil {
		return
	}
	branches := func(n *parse.BranchNode) {
		instrumentList(n.List, action)
		instrumentList(n.ElseList, action)
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			action(n)
		case *parse.IfNode:
			branches(&n.BranchNode)
		case *parse.WithNode:
			branches(&n.BranchNode)
		case *parse.RangeNode:
			branches(&n.BranchNode)
			addRepeat(n.List)
		}
	}
}

// addRepeat has a list begin with {{$_warren := _warren_repeat}}. An assignment writes
// nothing, so that html/template escapes nothing there.
func addRepeat(list *parse.ListNode) {
	list.Nodes = slices.Insert(list.Nodes, 0, parse.Node(&parse.ActionNode{
		NodeType: parse.NodeAction, Pos: list.Pos,
		Pipe: &parse.PipeNode{
			NodeType: parse.NodePipe, Pos: list.Pos,
			Decl: []*parse.VariableNode{{NodeType: parse.NodeVariable, Pos: list.Pos, Ident: []string{"$_warren"}}},
			Cmds: []*parse.CommandNode{call(functionRepeat, list.Pos)},
		},
	}))
}

// addShown has {{.x}} be {{.x | _warren_shown}}.
func addShown(n *parse.ActionNode) {
	if len(n.Pipe.Decl) == 0 {
		n.Pipe.Cmds = append(n.Pipe.Cmds, call(functionShown, n.Pos))
	}
}

func call(function string, pos parse.Pos) *parse.CommandNode {
	return &parse.CommandNode{
		NodeType: parse.NodeCommand, Pos: pos,
		Args: []parse.Node{parse.NewIdentifier(function).SetPos(pos)},
	}
}
