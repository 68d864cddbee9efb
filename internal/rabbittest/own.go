package rabbittest

import (
	"context"
	"testing"
)

// NewNode starts a node for the test alone, which ends with it, and returns its first vhost:
// for what is done to a node while others test on that of [NewVhost].
func NewNode(t testing.TB) *Vhost {
	t.Helper()
	node, err := Start(context.Background(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatalf("no node to test against: %v", err)
	}
	t.Cleanup(node.Kill)
	return &Vhost{Node: node, Name: "/", URL: node.URL("/")}
}
