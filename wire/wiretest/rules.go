package wiretest

import (
	"bytes"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// writes are the commands that only a primary takes and that txnNumber makes retryable.
var writes = map[string]string{ // with the name of their statements
	"insert": "documents", "update": "updates", "delete": "deletes", "bulkWrite": "ops",
	"findAndModify": "", "findandmodify": "",
}

// definitions are commands for a primary without statements.
var definitions = map[string]bool{
	"create": true, "createIndexes": true, "drop": true, "dropDatabase": true, "dropIndexes": true,
	"collMod": true, "renameCollection": true, "commitTransaction": true, "abortTransaction": true,
}

// reads are commands that a secondary takes with a read preference.
var reads = map[string]bool{
	"find": true, "aggregate": true, "count": true, "distinct": true, "listIndexes": true, "listCollections": true,
}

// refuse is what a real server refuses, where the option Enforce is on.
func (s *Server) refuse(cmd Command) (Reply, bool) {
	if !s.opt.enforce {
		return Reply{}, false
	}
	for _, rule := range []func(Command) *Reply{s.size, s.oncePerField, s.ownTime, s.rightRole, s.retryable} {
		if r := rule(cmd); r != nil {
			return *r, true
		}
	}
	if doc := s.set.enter(cmd); doc != nil {
		return Reply{doc: doc}, true
	}
	return Reply{}, false
}

func refused(code wire.Code, format string, args ...any) *Reply {
	r := Fail(code, fmt.Sprintf(format, args...))
	return &r
}

// limit is what hello says of a limit of sizes.
func (s *Server) limit(name string, usual int) int {
	v, _ := field(s.opt.hello, name)
	if n, ok := number(v); ok {
		return int(n)
	}
	return usual
}

// tooLong: a message for which a server closes the connection.
func (s *Server) tooLong(cmd Command) bool {
	return s.opt.enforce && int(cmd.Length) > s.limit("maxMessageSizeBytes", wire.MaxMessage)
}

// size: a command's own document and those of sequences are little larger than what is stored, and a batch
// has not too many writes.
func (s *Server) size(cmd Command) *Reply {
	docs, longest := 0, len(cmd.Body)
	for _, seq := range cmd.Sections {
		docs = max(docs, len(seq.Docs))
		for _, d := range seq.Docs {
			longest = max(longest, len(d))
		}
	}
	if limit := s.limit("maxBsonObjectSize", wire.MaxDocument) + 16<<10; longest > limit {
		return refused(wire.BSONObjectTooLarge, "BSONObj size: %d is invalid. Size must be between 0 and %d", longest, limit)
	}
	if limit := s.limit("maxWriteBatchSize", 100_000); docs > limit {
		return refused(16, "Write batch sizes must be between 1 and %d. Got %d operations.", limit, docs)
	}
	return nil
}

// oncePerField: no top-level field twice, sections counted as fields.
func (s *Server) oncePerField(cmd Command) *Reply {
	seen := map[string]bool{}
	for _, seq := range cmd.Sections {
		seen[seq.Identifier] = true
	}
	for it := cmd.Body.Iter(); it.Next(); {
		if seen[string(it.Key)] {
			return refused(wire.DuplicateField, "BSON field '%s.%s' is a duplicate field", cmd.Name, it.Key)
		}
		seen[string(it.Key)] = true
	}
	return nil
}

// ownTime: a $clusterTime is signed by this set.
func (s *Server) ownTime(cmd Command) *Reply {
	v, ok := cmd.Value("$clusterTime").(bson.D)
	if !ok || s.Role() == Standalone {
		return nil
	}
	t, _ := Get(v, "clusterTime").(bson.Timestamp)
	hash, _ := Get(v, "signature", "hash").(bson.Binary)
	s.set.mu.Lock()
	defer s.set.mu.Unlock()
	if Get(v, "signature", "keyId") != s.set.keyID {
		return refused(211, "No keys found for HMAC that is valid for time: %v", t)
	}
	if !bytes.Equal(hash.Data, s.set.sign(t)) {
		return refused(197, "Invalid key signature for time %v", t)
	}
	return nil
}

// rightRole: writes on a primary, reads on a secondary only where the client says so.
func (s *Server) rightRole(cmd Command) *Reply {
	s.mu.Lock()
	h := s.hello
	s.mu.Unlock()
	if h.role != Secondary && h.role != RecoveringMember {
		return nil
	}
	_, write := writes[cmd.Name]
	mode := cmd.Value("$readPreference", "mode")
	switch {
	case write || definitions[cmd.Name] || cmd.inTransaction():
		return h.refused(10107, "not primary")
	case reads[cmd.Name] && h.role == RecoveringMember:
		return h.refused(13436, "node is not in primary or recovering state")
	case reads[cmd.Name] && (mode == nil || mode == "primary"):
		return h.refused(13435, "not primary and secondaryOk=false")
	}
	return nil
}

// refused is an error of the state; the version in it tells drivers whether they know that already.
func (h helloState) refused(code wire.Code, text string) *Reply {
	r := Fail(code, text)
	r.doc = D(append(Decode(r.doc), bson.E{Key: "topologyVersion", Value: h.version()}))
	return &r
}

// retryable: which commands may have a txnNumber.
func (s *Server) retryable(cmd Command) *Reply {
	if _, has := cmd.Int("txnNumber"); !has {
		if cmd.inTransaction() || cmd.Value("startTransaction") != nil {
			return refused(wire.InvalidOptions, "'autocommit' and 'startTransaction' need a 'txnNumber'")
		}
		return nil
	}
	_, write := writes[cmd.Name]
	switch {
	case cmd.session() == "":
		return refused(wire.InvalidOptions, "Transaction number requires a session ID to also be specified")
	case s.Role() == Standalone:
		return refused(wire.IllegalOperation, "Transaction numbers are only allowed on a replica set member or mongos")
	case !cmd.inTransaction() && !write:
		return refused(50768, "txnNumber may only be provided for multi-document transactions and retryable write commands. autocommit:false was not provided, and %s is not a retryable write command", cmd.Name)
	case !cmd.inTransaction() && multi(cmd):
		return refused(wire.InvalidOptions, "Cannot use (or request) retryable writes with multi=true")
	}
	return nil
}

// multi reports whether a statement may change several documents.
func multi(cmd Command) bool {
	for _, d := range append(cmd.Docs("updates"), cmd.Docs("ops")...) {
		if v, ok := d.Lookup("multi"); ok && v.True() {
			return true
		}
	}
	for _, d := range cmd.Docs("deletes") {
		if v, ok := d.Lookup("limit"); ok && !v.True() {
			return true
		}
	}
	return false
}
