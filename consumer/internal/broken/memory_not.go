//go:build !broken_memory

package broken

// Forgets is false: what is remembered of finished work is recognised.
const Forgets = false
