package backend

import (
	"fmt"
	"strings"
	"time"

	"github.com/smetasc/tenantry/wire"
)

// Mode is a read preference's mode other than primary, which is a nil preference.
type Mode uint8

// The modes.
const (
	PrimaryPreferred Mode = iota + 1
	Secondary
	SecondaryPreferred
	Nearest
)

var modes = [...]string{"primary", "primaryPreferred", "secondary", "secondaryPreferred", "nearest"}

func (m Mode) String() string { return modes[m] }

// Tag is a name and value that a member must have.
type Tag struct{ Name, Value string }

// ReadPref is a read preference as a command carries it. The hedge option is ignored, as servers
// of today do.
type ReadPref struct {
	Mode         Mode
	Tags         [][]Tag // the first set that any member has is taken; empty: no demand
	MaxStaleness time.Duration
}

// minStaleness is the least that the specification allows.
const minStaleness = 90

// ParseReadPref reads a command's $readPreference; nil is the mode primary. The error is a
// [wire.Error] that may be shown to the client.
func ParseReadPref(d wire.Doc) (*ReadPref, error) {
	p := &ReadPref{}
	named := false
	it := d.Iter()
	for it.Next() {
		var err error
		switch string(it.Key) {
		case "mode":
			named = true
			err = p.setMode(it.Value)
		case "tags":
			err = p.setTags(it.Value)
		case "maxStalenessSeconds":
			err = p.setStaleness(it.Value)
		}
		if err != nil {
			return nil, err
		}
	}
	if it.Err() != nil {
		return nil, wire.Errorf(wire.BadValue, "$readPreference is malformed")
	}
	if !named {
		return nil, wire.Errorf(wire.FailedToParse, "$readPreference needs a mode")
	}
	return p.checked()
}

// checked refuses what the mode primary does not allow.
func (p *ReadPref) checked() (*ReadPref, error) {
	if p.Mode != 0 {
		return p, nil
	}
	for _, set := range p.Tags {
		if len(set) > 0 {
			return nil, wire.Errorf(wire.BadValue, "$readPreference with mode primary takes no tags")
		}
	}
	if p.MaxStaleness > 0 {
		return nil, wire.Errorf(wire.BadValue, "$readPreference with mode primary takes no maxStalenessSeconds")
	}
	return nil, nil
}

func (p *ReadPref) setMode(v wire.Value) error {
	name, ok := v.Str()
	if !ok {
		return wire.Errorf(wire.BadValue, "$readPreference mode must be a string")
	}
	for i, m := range modes {
		if strings.EqualFold(m, string(name)) {
			p.Mode = Mode(i)
			return nil
		}
	}
	return wire.Errorf(wire.BadValue, "$readPreference mode %q is none of %s", name, strings.Join(modes[:], ", "))
}

func (p *ReadPref) setTags(v wire.Value) error {
	sets, ok := v.Array()
	if !ok {
		return wire.Errorf(wire.BadValue, "$readPreference tags must be an array of documents")
	}
	it := sets.Iter()
	for it.Next() {
		set, err := tagSet(it.Value)
		if err != nil {
			return err
		}
		p.Tags = append(p.Tags, set)
	}
	if it.Err() != nil {
		return wire.Errorf(wire.BadValue, "$readPreference tags are malformed")
	}
	return nil
}

func tagSet(v wire.Value) ([]Tag, error) {
	d, ok := v.Doc()
	if !ok {
		return nil, wire.Errorf(wire.BadValue, "$readPreference tags must be documents")
	}
	set := []Tag{}
	it := d.Iter()
	for it.Next() {
		value, ok := it.Value.Str()
		if !ok {
			return nil, wire.Errorf(wire.BadValue, "$readPreference tag %q must be a string", it.Key)
		}
		set = append(set, Tag{string(it.Key), string(value)})
	}
	if it.Err() != nil {
		return nil, wire.Errorf(wire.BadValue, "$readPreference tags are malformed")
	}
	return set, nil
}

func (p *ReadPref) setStaleness(v wire.Value) error {
	n, ok := v.Int()
	switch {
	case !ok:
		return wire.Errorf(wire.BadValue, "$readPreference maxStalenessSeconds must be an integer")
	case n == -1:
		return nil
	case n < minStaleness || n > 1<<31:
		return &wire.Error{Code: maxStalenessOutOfRange, Text: fmt.Sprintf("$readPreference maxStalenessSeconds must be at least %d", minStaleness)}
	}
	p.MaxStaleness = time.Duration(n) * time.Second
	return nil
}

// maxStalenessOutOfRange is the server's code for it.
const maxStalenessOutOfRange wire.Code = 160
