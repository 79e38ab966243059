package proxy

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// one serves a findAndModify whose document's home is to be found out.
func (s *split) one() (reply *wire.Buf, again bool, err *wire.Error) {
	op, plan := &s.ops[0], &s.plans[0]
	if plan.Err != nil {
		return nil, false, plan.Err
	}
	if s.homes[0] != nil {
		reply, _, err = s.modify(s.homes[0])
		return reply, false, err
	}
	held, err := s.locateByID()
	for {
		if err != nil || held.Type != 0 {
			return nil, true, s.wait(held, err)
		}
		home := s.homes[0]
		if home == nil {
			break
		}
		var hit bool
		if reply, hit, err = s.modify(home); err != nil || hit || !s.guessed && !s.strips(0) {
			return reply, false, err
		}
		reply.Free() // it was a guess, or its document is gone: ask everywhere
		if !s.guessed {
			if err = s.outrun(); err != nil {
				return nil, false, err
			}
		}
		s.guessed, s.homes[0], op.Located = false, nil, routing.Located{}
		held, err = s.locateAsking(0)
	}
	if plan.Err != nil {
		return nil, false, plan.Err
	}
	if _, byID := s.byID(0); byID {
		reply, err = s.modifyNowhere()
		return reply, false, err
	}
	for {
		p, ok, err := s.locate(0)
		switch {
		case err != nil:
			return nil, false, err
		case !ok:
			reply, err = s.modifyNowhere()
			return reply, false, err
		}
		if s.waits(p.tenant) {
			return nil, true, s.wait(p.tenant, nil)
		}
		if p.made() {
			op.Tenant, op.Made = p.tenant, true
			reply, _, err = s.modify(p.home)
			return reply, false, err
		}
		op.Located = routing.Located{ID: p.id, Tenant: p.tenant, Exists: true}
		if err := s.t.Guard(&s.c.req, op, p.home); err != nil {
			return nil, false, err
		}
		for more := true; more; more = s.choose(0, p) {
			reply, hit, err := s.modify(p.home)
			if err != nil || hit {
				return reply, false, err
			}
			reply.Free()
			if err := s.outrun(); err != nil {
				return nil, false, err
			}
		}
		if s.stuck(0, p) {
			reply, err = s.modifyNowhere()
			return reply, false, err
		}
	}
}

// modify sends the findAndModify to a home; hit says that it found its document there, or failed.
func (s *split) modify(home *routing.Target) (reply *wire.Buf, hit bool, err *wire.Error) {
	tr := s.c.sideTrip(s.t, home, s.tx)
	tr.edit = func(p *wire.Patch) { s.t.FitOne(&s.c.req, &s.ops[0], home, p) }
	s.c.outcome.target = home
	p := &s.c.scatter([]*trip{tr}, s.tx)[0]
	if p.err != nil {
		return nil, false, p.err
	}
	f := &tr.facts
	hit = !f.ok || f.errors || f.value.Type != 0 && f.value.Type != bsoncore.TypeNull || f.updated
	reply, err = s.c.finish(tr, p.reply)
	return reply, hit, err
}

// modifyNowhere is [split.nowhere] for a findAndModify.
func (s *split) modifyNowhere() (*wire.Buf, *wire.Error) {
	op, targets := &s.ops[0], s.plans[0].Targets
	op.Located = routing.Located{}
	if op.Upsert {
		home, _, err := s.making(0)
		if err != nil {
			return nil, err
		}
		reply, _, err := s.modify(home)
		return reply, err
	}
	op.None = true
	if !s.numbered {
		targets = targets[:1]
	}
	var first *wire.Buf
	for _, x := range targets {
		reply, hit, err := s.modify(x)
		if err != nil || hit {
			first.Free()
			return reply, err
		}
		if first == nil {
			first = reply
		} else {
			reply.Free()
		}
	}
	return first, nil
}
