package wiretest

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// session is what a set knows of an lsid: its newest txnNumber, and either the statements of a
// retryable write or a transaction. Guarded by the set's mutex.
type session struct {
	number     int64
	txn        txnState
	undo       []func()           // takes a transaction's writes back, last first
	statements map[int64]bson.D   // by stmtId: what the store did
	replies    map[int64]wire.Doc // by stmtId: what a script replied to the command with it
}

type txnState int

const (
	noTxn txnState = iota
	openTxn
	committedTxn
	abortedTxn
)

// enter checks a command with a txnNumber against its session and does what is to be done before
// it runs. What it returns is the answer: an error, or the one from history.
func (x *set) enter(cmd Command) wire.Doc {
	number, has := cmd.Int("txnNumber")
	if !has {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.sessions[cmd.session()]
	if s == nil {
		s = &session{number: -1}
		x.sessions[cmd.session()] = s
	}
	start := cmd.Value("startTransaction") == true
	switch {
	case number < s.number:
		return Fail(wire.TransactionTooOld, fmt.Sprintf("Cannot start transaction with %d, the session has %d already", number, s.number)).doc
	case number > s.number && cmd.inTransaction() && !start:
		return noSuchTransaction(number)
	case number > s.number:
		s.begin(number)
	case start && s.txn != noTxn || cmd.inTransaction() != (s.txn != noTxn):
		return Fail(117, fmt.Sprintf("Cannot use txnNumber %d in two ways", number)).doc
	}
	if !cmd.inTransaction() {
		return s.replayed(cmd)
	}
	if start {
		s.txn = openTxn
	}
	return s.step(cmd)
}

func noSuchTransaction(number int64) wire.Doc {
	return Fail(wire.NoSuchTransaction, fmt.Sprintf("Given transaction number %d does not match any in-progress transactions", number), wire.LabelTransientTxn).doc
}

// begin forgets what an older number did; its open transaction is aborted.
func (s *session) begin(number int64) {
	s.abort()
	*s = session{number: number, statements: map[int64]bson.D{}, replies: map[int64]wire.Doc{}}
}

func (s *session) abort() {
	if s.txn != openTxn {
		return
	}
	for i := len(s.undo) - 1; i >= 0; i-- {
		s.undo[i]()
	}
	s.txn, s.undo = abortedTxn, nil
}

// step is a transaction's next command.
func (s *session) step(cmd Command) wire.Doc {
	switch {
	case s.txn == abortedTxn:
		return noSuchTransaction(s.number)
	case s.txn == committedTxn && cmd.Name != "commitTransaction":
		return Fail(256, fmt.Sprintf("Transaction %d has been committed.", s.number)).doc
	case cmd.Name == "commitTransaction":
		s.txn, s.undo = committedTxn, nil
	case cmd.Name == "abortTransaction":
		s.abort()
	}
	return nil
}

// abortAll ends all open transactions, as a primary that goes does.
func (x *set) abortAll() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.sessions {
		s.abort()
	}
}

// statementIDs are the ids of a command's statements, given or counted.
func statementIDs(cmd Command) []int64 {
	if ids, ok := cmd.Value("stmtIds").(bson.A); ok {
		var given []int64
		for _, id := range ids {
			n, _ := number(id)
			given = append(given, int64(n))
		}
		return given
	}
	first, _ := cmd.Int("stmtId")
	n := 1
	if name := writes[cmd.Name]; name != "" {
		n = len(cmd.Docs(name))
	}
	ids := make([]int64, n)
	for i := range ids {
		ids[i] = first + int64(i)
	}
	return ids
}

// replayed is a script's reply to a command whose statements have all run; nil where none did. A
// command of which only some did is an error, since a script can't run the others alone; the
// store can, and has its own history.
func (s *session) replayed(cmd Command) wire.Doc {
	var reply wire.Doc
	ids, done := statementIDs(cmd), 0
	for _, id := range ids {
		if r, ok := s.replies[id]; ok {
			reply = r
			done++
		}
	}
	if done > 0 && done < len(ids) {
		return Fail(238, "wiretest: some statements of the command have run and the script can't run the others").doc
	}
	return reply
}

// remember keeps a script's reply to a retryable write, if that had an effect.
func (x *set) remember(cmd Command, reply wire.Doc) wire.Doc {
	_, has := cmd.Int("txnNumber")
	ok, _ := reply.Lookup("ok")
	if !has || cmd.inTransaction() || !ok.True() {
		return reply
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if s := x.sessions[cmd.session()]; s != nil && s.replies != nil {
		for _, id := range statementIDs(cmd) {
			s.replies[id] = reply
		}
	}
	return reply
}
