package backend

import (
	"errors"
	"fmt"
)

// Why an acquire or a round trip failed; an [Error] wraps one of these or what the network said.
var (
	ErrNoServer = errors.New("no eligible server")              // none in time, or none possible
	ErrBusy     = errors.New("no connection became free")       // in time; a server there was
	ErrClosed   = errors.New("cluster is closed")               // it was removed, or everything is closing
	ErrKilled   = errors.New("connection was given up")         // by Interrupt, Close, or a dead server's monitor
	ErrMismatch = errors.New("reply to another request")        // the connection lost its order
	ErrOpCode   = errors.New("reply with an unknown operation") // neither OP_MSG nor OP_REPLY
)

// Error says that an acquire or a round trip failed.
type Error struct {
	Cluster string
	// Sent says that the whole command was written, so that the server may have run it. A server
	// runs no command of which it has only a part.
	Sent bool
	Err  error
}

func (e *Error) Error() string {
	return fmt.Sprintf("cluster %s: %v", e.Cluster, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CommandError is a server's reply that says no.
type CommandError struct {
	Code     int32
	CodeName string
	Message  string
	Labels   []string
}

func (e *CommandError) Error() string {
	if e.CodeName == "" {
		return fmt.Sprintf("%s (%d)", e.Message, e.Code)
	}
	return fmt.Sprintf("%s (%d %s)", e.Message, e.Code, e.CodeName)
}

// HasLabel reports whether the reply carries the error label.
func (e *CommandError) HasLabel(label string) bool {
	for _, l := range e.Labels {
		if l == label {
			return true
		}
	}
	return false
}

// selectionError says why nothing could be had in time, and what went wrong meanwhile.
type selectionError struct {
	kind error // ErrNoServer or ErrBusy
	ctx  error // the caller's context's, nil where the selection timeout passed
	want string
	last error
}

func (e *selectionError) Error() string {
	text := fmt.Sprintf("%v for %s", e.kind, e.want)
	if e.last != nil {
		text += fmt.Sprintf("; last error: %v", e.last)
	}
	return text
}

// Unwrap returns all causes, so that errors.Is finds the kind and the caller's context's error.
func (e *selectionError) Unwrap() []error {
	errs := make([]error, 0, 3)
	for _, err := range []error{e.kind, e.ctx, e.last} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
