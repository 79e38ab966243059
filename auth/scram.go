package auth

import (
	"errors"
	"strings"

	"github.com/xdg-go/scram"

	"github.com/smetasc/tenantry/config"
)

// MaxPayload bounds what a client may send in one step. A name has at most 512 bytes, and everything
// else is short.
const MaxPayload = 4 << 10

// ErrFailed ends a log-in that did not succeed, for whatever reason: a client is told no more.
var ErrFailed = errors.New("authentication failed")

// Conversation is one log-in under way, the server's side of SCRAM (RFC 5802, RFC 7677) as the
// drivers' authentication specification has it: two steps, and an empty third one for clients that
// don't say that they do without. After an error it is over.
//
//	client                           server
//	n,,n=USER,r=NONCE          ─▶
//	                           ◀─    r=NONCE…,s=SALT,i=COUNT
//	c=biws,r=NONCE…,p=PROOF    ─▶
//	                           ◀─    v=SIGNATURE
type Conversation struct {
	source    string
	skipEmpty bool
	steps     int
	scram     *scram.ServerConversation
	account   account
	known     bool
	done      bool
}

// Login begins a conversation: by a mechanism, which is one of SCRAM, for a user of the source. The
// secret makes the salts of unknown users. SkipEmpty says that the client does without the third step.
func (u *Users) Login(mech, source string, secret []byte, skipEmpty bool) *Conversation {
	return u.login(mech, source, secret, skipEmpty, nil)
}

func (u *Users) login(mech, source string, secret []byte, skipEmpty bool, nonce scram.NonceGeneratorFcn) *Conversation {
	v := &Conversation{source: source, skipEmpty: skipEmpty}
	lookup := func(name string) (scram.StoredCredentials, error) {
		v.account = u.find(source, name)
		var c config.Credential
		c, v.known = u.credential(v.account, source, mech, secret)
		return scram.StoredCredentials{
			KeyFactors: scram.KeyFactors{Salt: c.Salt, Iters: c.Iterations},
			StoredKey:  []byte(c.StoredKey), ServerKey: []byte(c.ServerKey),
		}, nil
	}
	server, err := mechanisms[mech].hash.NewServer(lookup)
	if err != nil {
		panic(err) // it fails for no input
	}
	if nonce != nil {
		server = server.WithNonceGenerator(nonce)
	}
	v.scram = server.NewConversation()
	return v
}

// Step takes what the client sent and gives what it is to be answered; done says that the client has
// authenticated. The only error is [ErrFailed].
func (v *Conversation) Step(payload []byte) (reply []byte, done bool, err error) {
	if v.steps++; v.done || len(payload) > MaxPayload {
		return nil, false, ErrFailed
	}
	switch v.steps {
	case 1:
		return v.first(payload)
	case 2:
		return v.final(payload)
	case 3:
		if len(payload) > 0 {
			return nil, false, ErrFailed
		}
		v.done = true
		return nil, true, nil
	}
	return nil, false, ErrFailed
}

func (v *Conversation) first(payload []byte) ([]byte, bool, error) {
	text, err := v.scram.Step(string(payload))
	if err != nil || badName(v.scram.Username()) || v.scram.AuthzID() != "" && v.scram.AuthzID() != v.scram.Username() {
		return v.fail()
	}
	return []byte(text), false, nil
}

func (v *Conversation) final(payload []byte) ([]byte, bool, error) {
	text, err := v.scram.Step(string(payload))
	if err != nil || !v.proven() {
		return v.fail()
	}
	v.done = v.skipEmpty
	return []byte(text), v.done, nil
}

// fail ends the conversation for good.
func (v *Conversation) fail() ([]byte, bool, error) {
	v.steps = 3
	v.known = false
	return nil, false, ErrFailed
}

// proven reports whether the client has shown that it knows the password of a user.
func (v *Conversation) proven() bool { return v.scram.Valid() && v.known }

// badName: principals are told apart by their names and a zero byte between them.
func badName(name string) bool { return name == "" || strings.ContainsRune(name, 0) }

// Guesses reports whether the next step is the one that shows whether the client knows the password.
func (v *Conversation) Guesses() bool { return v.steps == 1 }

// Name is the name that the client logs in by, as it says, and Account the user whose password it
// would have to know. Both are "" before the first step.
func (v *Conversation) Name() string { return v.scram.Username() }

// Account is the name of the user whose password the client has to know.
func (v *Conversation) Account() string { return v.account.name }

// Source is the database that the client authenticates with.
func (v *Conversation) Source() string { return v.source }

// Principal is who has authenticated; nil before that.
func (v *Conversation) Principal() *Principal {
	if !v.done || !v.proven() {
		return nil
	}
	return v.account.principal(v.source, v.scram.Username())
}
