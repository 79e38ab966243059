//go:build !unix

package wire

// waitReady does nothing: where sockets are no files, a buffer is held while waiting.
func (c *Conn) waitReady() {}
