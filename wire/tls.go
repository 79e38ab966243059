package wire

// ErrTLS says that the other side began a TLS handshake where messages are expected.
const ErrTLS = FrameError("a TLS handshake began on a connection without TLS")

// IsTLS reports whether a connection that begins with these three bytes speaks TLS: the record type
// handshake, then the record's version 3.x (RFC 8446, section 5.1; 3.1 and above, as every client
// sends it). A message that began so would have 66 KB or more, and no first message has.
func IsTLS(b []byte) bool {
	return len(b) >= 3 && b[0] == 22 && b[1] == 3 && b[2] >= 1 && b[2] <= 4
}

// isClientHello looks further, since messages that are not the first may begin with any length: the
// record holds a ClientHello of version 3.x.
func isClientHello(b []byte) bool {
	return IsTLS(b) && b[5] == 1 && b[9] == 3
}
