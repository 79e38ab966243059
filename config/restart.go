package config

import (
	"fmt"
	"slices"
)

// RestartNeeded names what differs between two configurations and cannot change while the
// process runs: the addresses, the home cluster's name and [control]. Where it names anything
// the whole reload is to be refused; everything else reloads.
func RestartNeeded(old, new *Config) []Problem {
	problems := addressChanges(old, new)
	add := func(key string, was, is any) {
		if was != is {
			problems = append(problems, new.restart(key, fmt.Sprintf("changes from %v to %v", was, is)))
		}
	}
	text := func(s string) string {
		if s == "" {
			return "nothing"
		}
		return show(s)
	}
	add("admin.address", text(old.Admin.Address), text(new.Admin.Address))
	add("control.enabled", old.Control.Enabled, new.Control.Enabled)
	add("control.database", text(old.Control.Database), text(new.Control.Database))
	add("control.fleet_key_file", text(old.Control.FleetKeyFile), text(new.Control.FleetKeyFile))
	add("routing.home", text(old.Routing.Home), text(new.Routing.Home))
	if old.Control.FleetKeyFile == new.Control.FleetKeyFile && fleetKeyChanged(old, new) {
		problems = append(problems, new.restart("control.fleet_key_file", "the key in the file has changed"))
	}
	sortProblems(problems)
	return problems
}

func fleetKeyChanged(old, new *Config) bool {
	return old.fleetKey != nil && new.fleetKey != nil && *old.fleetKey != *new.fleetKey
}

// addressChanges compares the listeners' addresses as a set: their order may change.
func addressChanges(old, new *Config) []Problem {
	var problems []Problem
	for i, ln := range new.Listeners {
		change := func(key, text string) {
			problems = append(problems, new.restart(fmt.Sprintf("listeners[%d].%s", i, key), text))
		}
		j := slices.IndexFunc(old.Listeners, func(o Listener) bool { return o.Address == ln.Address })
		if j < 0 {
			change("address", show(ln.Address)+" is new")
		} else if was := old.Listeners[j].SocketMode; was != ln.SocketMode {
			change("socket_mode", fmt.Sprintf("changes from %#o to %#o", was, ln.SocketMode))
		}
	}
	is := addresses(new)
	for _, a := range addresses(old) {
		if !slices.Contains(is, a) {
			problems = append(problems, new.restart("listeners", show(a)+" is gone"))
		}
	}
	return problems
}

func addresses(c *Config) []string {
	var all []string
	for _, ln := range c.Listeners {
		all = append(all, ln.Address)
	}
	return all
}

func (c *Config) restart(key, text string) Problem {
	p := Problem{Line: c.lines[key], Key: key, Text: text, Remedy: "restart tenantry for this, or change it back"}
	if len(c.files) > 0 {
		p.File = c.files[0]
	}
	return p
}
