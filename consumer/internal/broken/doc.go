// Package broken breaks a promise in a build with one of its tags, so that the checker of
// package chaos can show that it would notice. In every other build nothing of it is left.
package broken
