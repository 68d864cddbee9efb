package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/warrenmq/warren/daemon/internal/legible"
)

type deadGroupsCommand struct {
	letters
	format
}

// Run prints the groups.
func (g *deadGroupsCommand) Run(ctx context.Context, a App) error {
	which, err := g.selection()
	if err != nil {
		return err
	}
	b, err := a.operator()
	if err != nil {
		return err
	}
	groups, looked, err := b.Groups(ctx, g.Queue, which)
	if err != nil {
		return fmt.Errorf("dead letters of %s not put into groups: %w", g.Queue, err)
	}
	list := g.list(a.Out, []string{"GROUP", "COUNT", "FIRST", "LAST", "SAMPLE", "REASON", "ERROR"}, 8, 7, 5, 5, 14, 14)
	for _, group := range groups {
		if err := list.add(group, group.ID, strconv.Itoa(group.Count), since(group.First), since(group.Last), legible.Line(group.Sample),
			legible.Line(group.Reason), legible.Line(group.Error)); err != nil {
			return err
		}
	}
	a.warnOfLimit(g.Queue, looked)
	if err := list.end(); err != nil || g.Output != "table" {
		return err
	}
	fmt.Fprintf(a.Err, "%s of %s, of %d looked at\n", plural(len(groups), "group", "groups"), plural(looked.Matched, "dead letter", "dead letters"), looked.All)
	for i, group := range groups { // the cause is what a group is about: the largest have it in full
		if text := legible.Line(group.Error); i < wholeCauses && list.table.cuts(text) {
			if _, err := fmt.Fprintf(a.Out, "%s: %s\n", group.ID, fit(text, 1000)); err != nil {
				return err
			}
		}
	}
	return nil
}

// wholeCauses is how many groups have their error below the table if it does not fit there.
const wholeCauses = 5
