package control

import (
	"slices"
	"strings"

	"github.com/smetasc/tenantry/config"
)

// scope is a set of collections of the logical databases: those that an entry covers or, with
// all, every one that no entry covers. Entries always name their database, so that a logical
// database that is added later is in no scope that was made without it.
type scope struct {
	all     bool
	entries []config.Entry
}

func (s *scope) has(database, collection string) bool {
	return s != nil && s.all != entriesHave(s.entries, database, collection)
}

// empty reports whether no collection can be in the scope.
func (s *scope) empty() bool { return s == nil || !s.all && len(s.entries) == 0 }

// coversAll reports whether each collection of the entry is in the scope.
func (s *scope) coversAll(e config.Entry) bool {
	if s == nil {
		return false
	}
	if s.all {
		return !slices.ContainsFunc(s.entries, func(x config.Entry) bool { return overlap(x, e) })
	}
	return entriesCover(s.entries, e)
}

// touches reports whether some collection of the entry is, or could come to be, in the scope.
func (s *scope) touches(e config.Entry) bool {
	if s == nil {
		return false
	}
	if s.all {
		return !entriesCover(s.entries, e)
	}
	return slices.ContainsFunc(s.entries, func(x config.Entry) bool { return overlap(x, e) })
}

func entriesHave(entries []config.Entry, database, collection string) bool {
	return slices.ContainsFunc(entries, func(e config.Entry) bool { return e.Has(database, collection) })
}

func entriesCover(entries []config.Entry, e config.Entry) bool {
	return slices.ContainsFunc(entries, func(x config.Entry) bool { return covers(x, e) })
}

// covers reports whether x means every collection that e means; both name their database.
func covers(x, e config.Entry) bool {
	return x.Database == e.Database && (x.Name == e.Name && x.Prefix == e.Prefix ||
		x.Prefix && strings.HasPrefix(e.Name, x.Name))
}

// overlap reports whether some collection is in both; both name their database.
func overlap(x, e config.Entry) bool {
	return covers(x, e) || covers(e, x)
}

// star reports whether the entry is a whole database.
func star(e config.Entry) bool { return e.Prefix && e.Name == "" }

// qualify takes entries apart and gives each that names no database one entry per database.
func qualify(r config.Routing, texts, databases []string) []config.Entry {
	var all []config.Entry
	for _, text := range texts {
		e := r.Entry(text)
		if e.Database != "" {
			all = append(all, e)
			continue
		}
		for _, db := range databases {
			e.Database = db
			all = append(all, e)
		}
	}
	return all
}

// texts is the entries as a route and a table spell them.
func texts(entries []config.Entry) []string {
	all := make([]string, len(entries))
	for i, e := range entries {
		all[i] = entryText(e)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func entryText(e config.Entry) string {
	text := e.Database + "." + e.Name
	if e.Prefix {
		text += "*"
	}
	return text
}

// missing is what of want is not in have, as entries; have may be nil.
func missing(want, have *scope, databases []string) []config.Entry {
	var all []config.Entry
	switch {
	case want.empty():
	case !want.all:
		for _, e := range want.entries {
			if !have.coversAll(e) {
				all = append(all, e)
			}
		}
	case have != nil && have.all:
		for _, x := range have.entries {
			if !entriesCover(want.entries, x) {
				all = append(all, x)
			}
		}
	default:
		for _, db := range databases {
			if e := (config.Entry{Database: db, Prefix: true}); !entriesCover(want.entries, e) {
				all = append(all, e)
			}
		}
	}
	return all
}

// namespace is one collection of one logical database.
type namespace struct{ db, coll string }

func (n namespace) String() string { return n.db + "." + n.coll }

func (n namespace) entry() config.Entry { return config.Entry{Database: n.db, Name: n.coll} }

// extend is have together with the collections of todo, which are missing(want, have): moving are
// those that are free to move, staying those that are not and stay out of it by name. It refuses
// what one route cannot say.
func extend(want, have *scope, todo []config.Entry, moving, staying []namespace) (*scope, error) {
	if have == nil {
		have = &scope{}
	}
	switch {
	case have.all:
		return extendAll(want, have, todo, staying)
	case want.all:
		for _, e := range have.entries {
			if !want.coversAll(e) {
				return nil, permanentf("%s has moved and is not among what all modules together leave out; one route can not say both", entryText(e))
			}
		}
		s := &scope{all: true, entries: slices.Clone(want.entries)}
		s.leaveOut(staying)
		return s, nil
	}
	s := &scope{entries: slices.Clone(have.entries)}
	for _, e := range todo {
		if slices.ContainsFunc(staying, func(n namespace) bool { return e.Has(n.db, n.coll) }) {
			continue
		}
		s.entries = slices.DeleteFunc(s.entries, func(x config.Entry) bool { return covers(e, x) })
		s.entries = append(s.entries, e)
	}
	for _, n := range moving {
		if !s.has(n.db, n.coll) {
			s.entries = append(s.entries, n.entry())
		}
	}
	return s, nil
}

// extendAll takes todo off what a route leaves out; of a whole database, what is wanted to stay out
// of it goes on being left out.
func extendAll(want, have *scope, todo []config.Entry, staying []namespace) (*scope, error) {
	s := &scope{all: true}
	for _, x := range have.entries {
		if entriesCover(todo, x) {
			for _, w := range want.entries {
				if want.all && covers(x, w) {
					s.entries = append(s.entries, w)
				}
			}
			continue
		}
		if slices.ContainsFunc(todo, func(e config.Entry) bool { return overlap(x, e) }) {
			return nil, permanentf("the route leaves out %s as a whole; one route can not leave out a part of it", entryText(x))
		}
		s.entries = append(s.entries, x)
	}
	s.leaveOut(staying)
	return s, nil
}

func (s *scope) leaveOut(staying []namespace) {
	for _, n := range staying {
		if s.has(n.db, n.coll) {
			s.entries = append(s.entries, n.entry())
		}
	}
}
