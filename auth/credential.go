package auth

import (
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/xdg-go/scram"
	"github.com/xdg-go/stringprep"

	"github.com/smetasc/tenantry/config"
)

// mechanism is one of SCRAM, with what servers choose for new users (RFC 7677; the server's own
// defaults of scramSHA256IterationCount and scramIterationCount).
type mechanism struct {
	hash       scram.HashGeneratorFcn
	iterations int
	salt       int // bytes: what is left of the hash's block beside its counter
}

var mechanisms = map[string]mechanism{
	config.ScramSHA256: {scram.SHA256, 15000, 28},
	config.ScramSHA1:   {scram.SHA1, 10000, 16},
}

// NewCredential is what is to be stored of a user's password for a mechanism, with a new salt. It has
// the shape of the credentials of the users that it is to be among.
func NewCredential(mech, user, password string, among []config.User) (config.Credential, error) {
	if _, ok := mechanisms[mech]; !ok {
		return config.Credential{}, fmt.Errorf("there is no mechanism %q", mech)
	}
	shape := NewUsers(among).shapes[mech]
	salt := make([]byte, len(shape.Salt))
	_, _ = rand.Read(salt)
	prepared, err := prepare(mech, user, password)
	if err != nil {
		return config.Credential{}, err
	}
	return deriveCredential(mech, prepared, string(salt), shape.Iterations)
}

func deriveCredential(mech, prepared, salt string, iterations int) (config.Credential, error) {
	c := config.Credential{Mechanism: mech, Iterations: iterations, Salt: salt}
	client, err := mechanisms[mech].hash.NewClientUnprepped("", prepared, "")
	if err != nil {
		return c, err
	}
	keys, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: salt, Iters: iterations})
	if err != nil {
		return c, err
	}
	c.StoredKey, c.ServerKey = string(keys.StoredKey), string(keys.ServerKey)
	return c, nil
}

// prepare is the password as clients give it to the mechanism: prepared for SHA-256 (RFC 4013), a
// digest with the user's name for SHA-1 (the drivers' authentication specification). Names are taken
// as they are.
func prepare(mech, user, password string) (string, error) {
	if password == "" {
		return "", errors.New("the password is empty")
	}
	if mech == config.ScramSHA1 {
		digest := md5.Sum([]byte(user + ":mongo:" + password))
		return hex.EncodeToString(digest[:]), nil
	}
	prepared, err := stringprep.SASLprep.Prepare(password)
	if err == nil && prepared == "" {
		err = errors.New("nothing is left of it")
	}
	if err != nil {
		return "", errors.New("the password holds characters that clients can not send (RFC 4013)")
	}
	return prepared, nil
}
