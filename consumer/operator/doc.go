// Package operator asks one thing of the broker for a person at a terminal, over a
// connection of its own, and needs no daemon for it.
package operator
