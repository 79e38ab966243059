package wire

import "slices"

// Patch collects changes to one message and applies them in one pass: replaced values, added and
// removed elements. The zero value is empty; a Patch is reused by Reset, so that changing a
// message allocates nothing.
type Patch struct {
	cuts    []cut
	lengths []length
	delta   int
	resized bool // some cut changes a length, even if all of them together don't
	aside   []byte
}

// cut replaces n bytes at an offset of the frame.
type cut struct {
	at, n int
	with  []byte
	shift int // by how much bytes behind the cut move; filled when the patch is applied
}

// length is an int32 length of the frame that grows with the cuts inside of it.
type length struct {
	at int
	by int32
}

// keptCuts is how many changes a patch keeps memory for; a large batch has one per document.
const keptCuts = 1024

// Reset empties the patch.
func (p *Patch) Reset() {
	clear(p.cuts) // what was put in is not kept alive
	if cap(p.cuts) > keptCuts || cap(p.lengths) > keptCuts*4 {
		p.cuts, p.lengths = nil, nil
	}
	p.cuts, p.lengths, p.delta, p.resized = p.cuts[:0], p.lengths[:0], 0, false
}

// Empty reports whether there is nothing to change.
func (p *Patch) Empty() bool { return len(p.cuts) == 0 }

// Delta is by how many bytes the message grows.
func (p *Patch) Delta() int { return p.delta }

// DeltaAt is by how many bytes the document (or section) grows whose length is at the frame's offset.
func (p *Patch) DeltaAt(at int) (by int) {
	for _, l := range p.lengths {
		if l.at == at {
			by += int(l.by)
		}
	}
	return by
}

// Replace puts with in place of the n bytes at the frame's offset at. Each of inside is the offset
// of the length of a document (or section) that contains the place; the frame's own is known.
// Bytes that are inserted (n is 0) come before what stands at the place, in the order of the calls.
// The bytes of with are read when the patch is applied; they may be a part of the frame that no
// other replacement touches. Replacements must not overlap, or applying panics; in ascending order
// they are added fastest.
func (p *Patch) Replace(at, n int, with []byte, inside ...int) {
	i := len(p.cuts)
	p.cuts = append(p.cuts, cut{})
	for ; i > 0 && p.cuts[i-1].after(at, n); i-- {
		p.cuts[i] = p.cuts[i-1]
	}
	p.cuts[i] = cut{at: at, n: n, with: with}
	by := len(with) - n
	if by == 0 {
		return
	}
	p.delta += by
	p.resized = true
	for _, l := range inside {
		p.lengths = append(p.lengths, length{l, int32(by)})
	}
}

// after reports whether the cut comes behind a new one of n bytes at the offset.
func (c *cut) after(at, n int) bool {
	return c.at > at || c.at == at && n == 0 && c.n > 0
}

// Apply returns the changed message: the same buffer where little of it has to be moved, else a new one
// with the old one's share of the budget, and then b is freed. A checksum is dropped, since it would be
// wrong.
func (p *Patch) Apply(b *Buf) *Buf {
	if !p.resized {
		return p.Amend(b)
	}
	if p.shift(b) {
		return b
	}
	out := p.copyOut(b.B)
	b.share(out)
	b.Free()
	return out
}

// Amend is Apply that never frees b: the result is b itself, changed, where no length changed, else
// a new buffer beside it, which no budget counts.
func (p *Patch) Amend(b *Buf) *Buf {
	switch {
	case p.Empty():
		return b
	case p.resized:
		return p.copyOut(b.B)
	}
	for _, c := range p.cuts {
		copy(b.B[c.at:c.at+c.n], c.with)
	}
	b.B = dropChecksum(b.B)
	return b
}

// Divide is Amend in two pieces: a new buffer with all that changes, and the rest of b as it is. The
// header has the length of both. A message with a checksum is not divided.
func (p *Patch) Divide(b *Buf) (front *Buf, rest []byte) {
	if !p.resized || hasChecksum(b.B) {
		return p.Amend(b), nil
	}
	last := &p.cuts[len(p.cuts)-1]
	at := last.at + last.n
	front, rest = p.copyOut(b.B[:at]), b.B[at:]
	putInt32(front.B, int32(len(front.B)+len(rest)))
	return front, rest
}

// ApplyTo returns the changed message in a new buffer, which no budget counts, and leaves b as it
// is.
func (p *Patch) ApplyTo(b *Buf) *Buf { return p.copyOut(b.B) }

// Limits of a change in the message's own buffer.
const (
	shiftLess = 4 << 10 // bytes that are moved in any message; in a large one, up to its half
	shiftWith = 1 << 10 // bytes that are put in, since they are set aside first
)

// shift changes the message in its own buffer by moving what lies behind the first cut; false where
// there is no room or too much to move, and then nothing has been changed.
func (p *Patch) shift(b *Buf) bool {
	frame := b.B
	size, shift, end := 0, 0, 0
	for i := range p.cuts {
		c := &p.cuts[i]
		if c.at < end {
			return false // they overlap, which is said elsewhere
		}
		end = c.at + c.n
		size += len(c.with)
		shift += len(c.with) - c.n
		c.shift = shift
	}
	if size > shiftWith || len(frame)+p.delta > cap(frame) || len(frame)-p.cuts[0].at > max(shiftLess, len(frame)/2) {
		return false
	}
	p.aside = p.aside[:0] // some may be a part of the frame
	for i := range p.cuts {
		p.aside = append(p.aside, p.cuts[i].with...)
	}
	p.moveParts(frame)
	b.B = frame[:len(frame)+p.delta]
	p.putIn(b.B)
	p.fixLengths(b.B)
	b.B = dropChecksum(b.B)
	return true
}

// moveParts moves the parts behind the cuts. One that moves backwards can only be in the way of what
// follows it where that moves backwards too, and likewise forwards.
func (p *Patch) moveParts(frame []byte) {
	room := frame[:cap(frame)]
	move := func(i int) {
		c, to := &p.cuts[i], len(frame)
		if i+1 < len(p.cuts) {
			to = p.cuts[i+1].at
		}
		copy(room[c.at+c.n+c.shift:], room[c.at+c.n:to])
	}
	for i := len(p.cuts) - 1; i >= 0; i-- {
		if p.cuts[i].shift > 0 {
			move(i)
		}
	}
	for i := range p.cuts {
		if p.cuts[i].shift < 0 {
			move(i)
		}
	}
}

// putIn writes what was set aside to its places.
func (p *Patch) putIn(frame []byte) {
	rest, shift := p.aside, 0
	for i := range p.cuts {
		c := &p.cuts[i]
		n := copy(frame[c.at+shift:], rest[:len(c.with)])
		rest, shift = rest[n:], c.shift
	}
}

func (p *Patch) fixLengths(frame []byte) {
	for _, l := range p.lengths {
		addInt32(frame[p.moved(l.at):], l.by)
	}
	putInt32(frame, int32(len(frame)))
}

func (p *Patch) copyOut(frame []byte) *Buf {
	out := NewBuf(len(frame) + p.delta)
	from, to := 0, 0
	for i := range p.cuts {
		c := &p.cuts[i]
		if c.at < from {
			panic("wire: replacements overlap")
		}
		to += copy(out.B[to:], frame[from:c.at])
		to += copy(out.B[to:], c.with)
		from = c.at + c.n
		c.shift = to - from
	}
	copy(out.B[to:], frame[from:])
	p.fixLengths(out.B)
	if len(p.cuts) > 0 {
		out.B = dropChecksum(out.B)
	}
	return out
}

// moved is where the byte at a frame's offset lies after the cuts.
func (p *Patch) moved(at int) int {
	i, _ := slices.BinarySearchFunc(p.cuts, at, func(c cut, at int) int { return c.at - at })
	if i == 0 {
		return at
	}
	return at + p.cuts[i-1].shift
}

// dropChecksum takes a changed OP_MSG's checksum off.
func dropChecksum(frame []byte) []byte {
	if !hasChecksum(frame) {
		return frame
	}
	frame = frame[:len(frame)-4]
	frame[flagsAt] &^= byte(ChecksumPresent)
	putInt32(frame, int32(len(frame)))
	return frame
}

func hasChecksum(frame []byte) bool {
	return len(frame) >= sectionsAt+4 && OpCode(getInt32(frame[12:])) == OpMsg && frame[flagsAt]&byte(ChecksumPresent) != 0
}
