package telemetry

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// A Role is what a request is for, and so what its token has to grant.
type Role string

// The roles. Watch is open to whoever can reach a loopback address, unless there is a
// token for it; Profile is, too, unless there is any token.
const (
	Watch    Role = "watch"    // metrics, health and readiness
	Profile  Role = "profile"  // profiles of the process
	Publish  Role = "publish"  // messages, to the queues of the daemon
	State    Role = "state"    // of messages, their results included
	Describe Role = "describe" // what describes the API
)

func (r Role) isKnown() bool {
	return slices.Contains([]Role{Watch, Profile, Publish, State, Describe}, r)
}

// A Route is a pattern of [http.ServeMux] with its method, and who may use it.
type Route struct {
	Pattern string
	Role    Role
	Handler http.HandlerFunc
}

// Tokens are what requests must bear. Those that are empty do not exist.
type Tokens struct {
	All     string
	Metrics string // for Watch
	Publish string // for Publish and Describe
	State   string // for State and Describe
	// View, Operate and Admin are for the page alone, which looks itself who bears them.
	View, Operate, Admin string
}

// minTokenBytes is the shortest token that is not guessed.
const minTokenBytes = 16

type token struct {
	variable, value string
	roles           []Role // nil: all
}

func (t Tokens) list() []token {
	all := []token{
		{"WARREN_ADMIN_TOKEN", t.All, nil},
		{"WARREN_ADMIN_METRICS_TOKEN", t.Metrics, []Role{Watch}},
		{"WARREN_ADMIN_PUBLISH_TOKEN", t.Publish, []Role{Publish, Describe}},
		{"WARREN_ADMIN_STATE_TOKEN", t.State, []Role{State, Describe}},
	}
	return slices.DeleteFunc(all, func(t token) bool { return t.value == "" })
}

func (t token) grants(r Role) bool { return t.roles == nil || slices.Contains(t.roles, r) }

// granting are the tokens for a role.
func (t Tokens) granting(r Role) []token {
	return slices.DeleteFunc(t.list(), func(t token) bool { return !t.grants(r) })
}

func (t Tokens) validate() error {
	var faults []error
	seen := make(map[string]string)
	page := []token{{"WARREN_UI_VIEW_TOKEN", t.View, nil}, {"WARREN_UI_OPERATE_TOKEN", t.Operate, nil}, {"WARREN_UI_ADMIN_TOKEN", t.Admin, nil}}
	page = slices.DeleteFunc(page, func(t token) bool { return t.value == "" })
	for _, token := range append(t.list(), page...) {
		if len(token.value) < minTokenBytes {
			faults = append(faults, fmt.Errorf("%s is too short; it must have at least %d characters", token.variable, minTokenBytes))
		}
		if other, there := seen[token.value]; there {
			faults = append(faults, fmt.Errorf("%s is the same as %s; give each its own, or set WARREN_ADMIN_TOKEN alone", token.variable, other))
		}
		seen[token.value] = token.variable
	}
	return errors.Join(faults...)
}

// guard lets through who may use the route that a request is for. What is for no route
// takes any token, if there is one, to be told so.
func (t Tokens) guard(mux *http.ServeMux, roles map[string]Role) http.Handler {
	all := t.list()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		_, pattern := mux.Handler(r)
		role, routed := roles[pattern]
		wanted := all
		if routed {
			wanted = t.granting(role)
		}
		borne := bearer(r, all)
		switch {
		case len(wanted) == 0 && (!routed || role == Watch || role == Profile && len(all) == 0),
			borne != nil && (!routed || borne.grants(role)):
			mux.ServeHTTP(w, r)
		case borne != nil, len(wanted) == 0:
			http.Error(w, forbidden(role), http.StatusForbidden)
		default:
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "a token is required, as Authorization: Bearer TOKEN: "+variables(wanted), http.StatusUnauthorized)
		}
	})
}

// bearer returns the token that a request bears, or nil.
func bearer(r *http.Request, all []token) (borne *token) {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil
	}
	got := sha256.Sum256([]byte(strings.TrimSpace(value))) // of equal length, whatever was sent
	for i := range all {
		want := sha256.Sum256([]byte(all[i].value))
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			borne = &all[i]
		}
	}
	return borne
}

// forbidden says which tokens would let a request through, if they were set.
func forbidden(r Role) string {
	some := Tokens{All: "x", Metrics: "x", Publish: "x", State: "x"}.granting(r)
	return "this takes the token of " + variables(some) + "; set it, or bear it"
}

func variables(tokens []token) string {
	names := make([]string, len(tokens))
	for i, t := range tokens {
		names[i] = t.variable
	}
	return strings.Join(names, " or ")
}
