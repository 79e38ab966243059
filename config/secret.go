package config

import (
	"fmt"
	"io"
)

// redacted stands wherever a secret would be printed.
const redacted = "mongodb://<redacted>"

// Secret is a connection string. Every way of printing or marshalling it gives the same
// redacted text; only [Secret.Reveal] gives the real one. Package fmt calls no methods on
// unexported struct fields, so a struct that keeps a Secret in one must not be printed.
type Secret string

// Reveal is the real text, for connecting with it and for nothing else.
func (s Secret) Reveal() string { return string(s) }

// String is the redacted text.
func (s Secret) String() string { return redacted }

// GoString is the redacted text.
func (s Secret) GoString() string { return redacted }

// Format writes the redacted text whatever the verb, since %x or %q would show the real one.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText is the redacted text, for JSON, TOML and loggers.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
