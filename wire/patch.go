package wire

// Patch collects changes to one message and applies them in one pass: replaced values, added and
// removed elements. The zero value is empty; a Patch is reused by Reset, so that changing a
// message allocates nothing.
type Patch struct {
	cuts    []cut
	lengths []length
	delta   int
}

// cut replaces n bytes at an offset of the frame.
type cut struct {
	at, n int
	with  []byte
}

// length is an int32 length of the frame that grows with the cuts inside of it.
type length struct {
	at int
	by int32
}

// Reset empties the patch.
func (p *Patch) Reset() {
	p.cuts, p.lengths, p.delta = p.cuts[:0], p.lengths[:0], 0
}

// Empty reports whether there is nothing to change.
func (p *Patch) Empty() bool { return len(p.cuts) == 0 }

// Replace puts with in place of the n bytes at the frame's offset at. Each of inside is the offset
// of the length of a document (or section) that contains the place; the frame's own is known.
// The bytes of with are read when the patch is applied. Replacements must not overlap.
func (p *Patch) Replace(at, n int, with []byte, inside ...int) {
	i := len(p.cuts)
	p.cuts = append(p.cuts, cut{})
	for ; i > 0 && p.cuts[i-1].at > at; i-- {
		p.cuts[i] = p.cuts[i-1]
	}
	p.cuts[i] = cut{at, n, with}
	by := len(with) - n
	if by == 0 {
		return
	}
	p.delta += by
	for _, l := range inside {
		p.lengths = append(p.lengths, length{l, int32(by)})
	}
}

// Apply returns the changed message: the same buffer where no length changed, else a new one, and
// then b is freed. A checksum is dropped, since it would be wrong.
func (p *Patch) Apply(b *Buf) *Buf {
	out := p.apply(b)
	if out != b {
		b.Free()
	}
	return out
}

// ApplyTo returns the changed message in a new buffer and leaves b as it is.
func (p *Patch) ApplyTo(b *Buf) *Buf {
	return p.copyOut(b.B)
}

func (p *Patch) apply(b *Buf) *Buf {
	if p.delta != 0 || len(p.lengths) != 0 {
		return p.copyOut(b.B)
	}
	for _, c := range p.cuts {
		copy(b.B[c.at:], c.with)
	}
	b.B = dropChecksum(b.B)
	return b
}

func (p *Patch) copyOut(frame []byte) *Buf {
	out := NewBuf(len(frame) + p.delta)
	from, to := 0, 0
	for _, c := range p.cuts {
		to += copy(out.B[to:], frame[from:c.at])
		to += copy(out.B[to:], c.with)
		from = c.at + c.n
	}
	copy(out.B[to:], frame[from:])
	for _, l := range p.lengths {
		addInt32(out.B[p.moved(l.at):], l.by)
	}
	putInt32(out.B, int32(len(out.B)))
	out.B = dropChecksum(out.B)
	return out
}

// moved is where the byte at a frame's offset lies after the cuts.
func (p *Patch) moved(at int) int {
	to := at
	for _, c := range p.cuts {
		if c.at >= at {
			break
		}
		to += len(c.with) - c.n
	}
	return to
}

// dropChecksum takes a changed OP_MSG's checksum off.
func dropChecksum(frame []byte) []byte {
	if len(frame) < sectionsAt || OpCode(getInt32(frame[12:])) != OpMsg || frame[flagsAt]&byte(ChecksumPresent) == 0 {
		return frame
	}
	frame = frame[:len(frame)-4]
	frame[flagsAt] &^= byte(ChecksumPresent)
	putInt32(frame, int32(len(frame)))
	return frame
}
