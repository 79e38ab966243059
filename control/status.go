package control

import (
	"fmt"
	"maps"
	"strings"
)

// States of a tenant in [TenantStatus].
const (
	StateShared   = "shared"   // all of it is in shared, as asked
	StateIsolated = "isolated" // what was asked for is in its own databases
	StatePending  = "pending"  // flag and route differ; its next command is held and looks at it
	StatePaused   = "paused"   // its commands are held
	StateRefused  = "refused"  // the flag is not obeyed; Why says why
)

// TenantStatus is one tenant for people: what is asked for it, and where it is.
type TenantStatus struct {
	Key         string            `json:"key"`
	ID          string            `json:"id"`
	Mode        string            `json:"mode"`                // asked for: "shared" or "per-tenant"
	Source      string            `json:"source"`              // who asks
	State       string            `json:"state"`               // see the State constants
	Cluster     string            `json:"cluster"`             // where its own databases are, or the home cluster
	Databases   map[string]string `json:"databases,omitempty"` // logical to its own
	Collections []string          `json:"collections,omitempty"`
	Except      []string          `json:"except,omitempty"` // all but these, where Collections is empty
	Epoch       uint64            `json:"epoch,omitempty"`  // of its route
	Why         string            `json:"why,omitempty"`    // what is asked for and not obeyed, and why

	// Where it was asked for: the unique indexes of its collections in shared, as "database.collection index",
	// by which a duplicate key tells connections bound to it that another tenant has a value.
	Tells []string `json:"tells,omitempty"`

	// Where it was asked for, of tenants with databases of their own: what differs from shared, and
	// why not all could be compared.
	Drift       []Drift `json:"drift,omitzero"`
	NotCompared string  `json:"not_compared,omitempty"`
}

// Status lists the tenants by key. What is listed and can not be used comes last, with the state
// refused and without an id.
func (c *Control) Status() []TenantStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statuses()
}

func (c *Control) statuses() []TenantStatus {
	all := make([]TenantStatus, 0, len(c.order)+len(c.problems))
	for _, t := range c.order {
		all = append(all, c.status(t))
	}
	for _, p := range c.problems {
		all = append(all, TenantStatus{Key: p.Tenant, State: StateRefused, Why: p.Text})
	}
	return all
}

func (c *Control) status(t *tenant) TenantStatus {
	s := TenantStatus{
		Key: t.key, ID: shown(t.value), Mode: t.plan.mode, Source: t.plan.source, State: c.stateOf(t),
		Cluster: c.rules.cfg.Routing.Home, Epoch: t.route.epoch(), Why: c.why(t),
	}
	if t.spec != nil {
		s.Cluster, s.Databases = t.spec.Cluster, maps.Clone(t.spec.Databases)
		s.Collections, s.Except = c.rules.short(t.spec.Collections), c.rules.short(t.spec.Except)
	}
	return s
}

// short leaves out the database's name where there is only one.
func (r *rules) short(entries []string) []string {
	if len(r.databases) != 1 || entries == nil {
		return entries
	}
	all := make([]string, len(entries))
	for i, e := range entries {
		all[i] = strings.TrimPrefix(e, r.databases[0]+".")
	}
	return all
}

func (c *Control) stateOf(t *tenant) string {
	f := c.flips[t.id]
	switch {
	case f != nil && f.paused > 0:
		return StatePaused
	case t.plan.look != settled && c.verdicts[t.id].holdsFor(t), t.plan.why != "":
		return StateRefused
	case t.plan.look != settled:
		return StatePending
	case t.spec != nil:
		return StateIsolated
	}
	return StateShared
}

func (c *Control) why(t *tenant) string {
	var all []string
	if f := c.flips[t.id]; f != nil && f.unsure {
		all = append(all, "whether its route was written is not known; it is paused until the control database can be read")
	}
	switch v := c.verdicts[t.id]; {
	case t.plan.look == settled:
	case v.holdsFor(t):
		all = append(all, v.why)
	case v.isAbout(t):
		all = append(all, "it is looked at with its next command; when last looked at: "+v.why)
	default:
		all = append(all, "it is looked at with its next command")
	}
	if t.plan.why != "" {
		all = append(all, t.plan.why)
	}
	if extra := c.rules.beyond(t); extra != "" {
		all = append(all, extra)
	}
	return strings.Join(all, "; ")
}

// beyond names what a route has moved though it is no longer asked for: it stays where it is.
func (r *rules) beyond(t *tenant) string {
	have := r.routeScope(t.route)
	if have == nil || t.plan.want.empty() || !r.guarded() {
		return ""
	}
	if have.all {
		if t.plan.want.all {
			return ""
		}
		return "its route covers every collection, and stays"
	}
	var extra []string
	for _, e := range have.entries {
		if !t.plan.want.coversAll(e) {
			extra = append(extra, entryText(e))
		}
	}
	if len(extra) == 0 {
		return ""
	}
	return fmt.Sprintf("in no module of it any more, and staying where the route says: %s", some(r.short(extra)))
}

// counts is what the metrics show; mu is held.
func (c *Control) counts() counts {
	n := counts{byState: make(map[string]int, 5), leftOut: len(c.problems)}
	for _, t := range c.order {
		n.byState[c.stateOf(t)]++
	}
	return n
}

// logProblems says what is listed and can not be used.
func (c *Control) logProblems() {
	c.mu.Lock()
	var all []string
	for _, p := range c.problems {
		all = append(all, p.String())
	}
	c.mu.Unlock()
	if len(all) == 0 {
		return
	}
	if text := some(all); c.limited.allows(text) {
		c.log.Warn().Int("tenants", len(all)).Msg("tenants are listed that can not be used as they are: " + text)
	}
}
