// Package docstest holds pages of the documentation against the program as a whole.
package docstest
