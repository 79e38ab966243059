package backend

import (
	"slices"

	"github.com/smetasc/tenantry/wire"
)

// offered keeps the compressors of the URI that we speak, in its order of preference. Nothing else
// may be offered: the server would answer with it.
func offered(names []string) []string {
	var ours []string
	for _, name := range names {
		if c, ok := wire.CompressorByName(name); ok && c != wire.Noop {
			ours = append(ours, name)
		}
	}
	return ours
}

// agree picks the first of ours that the server speaks too; [wire.Noop] stands for none.
func agree(ours, theirs []string) wire.Compressor {
	for _, name := range ours {
		if slices.Contains(theirs, name) {
			c, _ := wire.CompressorByName(name)
			return c
		}
	}
	return wire.Noop
}

// unpack takes a compressed reply apart and frees it.
func unpack(frame *wire.Buf, limit int) (*wire.Buf, error) {
	defer frame.Free()
	reply, _, err := wire.Decompress(frame, limit)
	return reply, err
}
