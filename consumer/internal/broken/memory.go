//go:build broken_memory

package broken

// Forgets has what is remembered of finished work be forgotten.
const Forgets = true
