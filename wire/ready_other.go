//go:build !unix

package wire

// waitReady does nothing: where sockets are no files, a buffer is held while waiting.
func (c *Conn) waitReady() {}

// The following are for connections that waitReady has prepared: for none.

func (c *Conn) fillRaw() error { panic("unreachable") }

func (c *Conn) askRaw() error { panic("unreachable") }

func (c *Conn) eachRaw() error { panic("unreachable") }

func (c *Conn) tryRead(uintptr) bool { panic("unreachable") }

func writeNow(int, []byte) int { return 0 }
