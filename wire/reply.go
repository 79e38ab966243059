package wire

import (
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// Code is an error code of the server's table (src/mongo/base/error_codes.yml).
type Code int32

// The codes that the proxy answers with or tells apart.
const (
	InternalError            Code = 1
	BadValue                 Code = 2
	HostUnreachable          Code = 6
	Unauthorized             Code = 13
	ParseFailed              Code = 9
	TypeMismatch             Code = 14
	InvalidLength            Code = 16
	ProtocolError            Code = 17
	AuthenticationFailed     Code = 18
	IllegalOperation         Code = 20
	NamespaceNotFound        Code = 26
	IndexNotFound            Code = 27
	CursorNotFound           Code = 43
	NamespaceExists          Code = 48
	MaxTimeMSExpired         Code = 50
	CommandNotFound          Code = 59
	ShardKeyNotFound         Code = 61
	WriteConcernFailed       Code = 64
	MultipleErrorsOccurred   Code = 65
	ImmutableField           Code = 66
	InvalidOptions           Code = 72
	InvalidNamespace         Code = 73
	ShutdownInProgress       Code = 91
	OperationFailed          Code = 96
	WriteConflict            Code = 112
	CommandNotSupported      Code = 115
	FailedToSatisfyReadPref  Code = 133
	ViewDepthExceeded        Code = 165
	NotSupportedOnView       Code = 166
	OptionNotOnView          Code = 167
	InvalidPipelineOperator  Code = 168
	NoSuchTransaction        Code = 251
	InvalidResumeToken       Code = 260
	TooManyLogicalSessions   Code = 261
	OperationNotSupportedTxn Code = 263
	ExceededTimeLimit        Code = 262
	ClientDisconnect         Code = 279
	QueryMemoryLimit         Code = 292
	UnsupportedOpQuery       Code = 352
	TransactionTooOld        Code = 225
	MechanismUnavailable     Code = 334
	Overloaded               Code = 462
	Interrupted              Code = 11601
	BSONObjectTooLarge       Code = 10334
	NotOneField              Code = 40323
	UnknownStage             Code = 40324
	DuplicateField           Code = 40413
	FailedToParse            Code = 40414
	UnknownField             Code = 40415
	NegativeField            Code = 51024
	AwaitNegative            Code = 51759
	AwaitNoVersion           Code = 51760
	ExhaustNoAwait           Code = 51763
	InternalFeature          Code = 5491300
)

var codeNames = map[Code]string{
	ParseFailed: "FailedToParse", InternalError: "InternalError", BadValue: "BadValue", HostUnreachable: "HostUnreachable", Unauthorized: "Unauthorized",
	ProtocolError: "ProtocolError", AuthenticationFailed: "AuthenticationFailed",
	IllegalOperation: "IllegalOperation", NamespaceNotFound: "NamespaceNotFound",
	IndexNotFound: "IndexNotFound", CursorNotFound: "CursorNotFound", NamespaceExists: "NamespaceExists",
	MaxTimeMSExpired: "MaxTimeMSExpired", CommandNotFound: "CommandNotFound",
	ShardKeyNotFound: "ShardKeyNotFound", WriteConcernFailed: "WriteConcernFailed",
	MultipleErrorsOccurred: "MultipleErrorsOccurred", ImmutableField: "ImmutableField",
	TooManyLogicalSessions: "TooManyLogicalSessions",
	InvalidResumeToken:     "InvalidResumeToken", InvalidOptions: "InvalidOptions", InvalidNamespace: "InvalidNamespace",
	ShutdownInProgress: "ShutdownInProgress", OperationFailed: "OperationFailed",
	WriteConflict: "WriteConflict", CommandNotSupported: "CommandNotSupported", NoSuchTransaction: "NoSuchTransaction",
	OperationNotSupportedTxn: "OperationNotSupportedInTransaction",
	ClientDisconnect:         "ClientDisconnect",
	QueryMemoryLimit:         "QueryExceededMemoryLimitNoDiskUseAllowed",
	UnsupportedOpQuery:       "UnsupportedOpQueryCommand", TransactionTooOld: "TransactionTooOld",
	MechanismUnavailable: "MechanismUnavailable", Overloaded: "IngressRequestRateLimitExceeded",
	TypeMismatch: "TypeMismatch", InvalidLength: "InvalidLength", FailedToSatisfyReadPref: "FailedToSatisfyReadPreference",
	BSONObjectTooLarge: "BSONObjectTooLarge", DuplicateField: "IDLDuplicateField",
	FailedToParse: "IDLFailedToParse", UnknownField: "IDLUnknownField",
	ViewDepthExceeded: "ViewDepthLimitExceeded", NotSupportedOnView: "CommandNotSupportedOnView",
	OptionNotOnView: "OptionNotSupportedOnView", InvalidPipelineOperator: "InvalidPipelineOperator",
}

// Name is the code's name in the server's table, "Location<code>" for those without one.
func (c Code) Name() string {
	if n, ok := codeNames[c]; ok {
		return n
	}
	return fmt.Sprintf("Location%d", int32(c))
}

// Error labels of the driver specifications.
const (
	LabelRetryableWrite = "RetryableWriteError"
	LabelTransientTxn   = "TransientTransactionError"
	LabelUnknownCommit  = "UnknownTransactionCommitResult"
	LabelNoWrites       = "NoWritesPerformed"
	LabelResumable      = "ResumableChangeStreamError"
	LabelOverloaded     = "SystemOverloadedError"
	LabelRetryable      = "RetryableError"
	errorTextPrefix     = "tenantry: "
)

// Error is a server error that the proxy answers with. Text says what to add or change; the
// reply puts "tenantry: " before it, so that people know who spoke.
type Error struct {
	Code   Code
	Text   string
	Labels []string
	Reply  Doc // where a server spoke: its words, labels and all, are the answer
}

func (e *Error) Error() string {
	if e.Reply != nil {
		return e.Text
	}
	return errorTextPrefix + e.Text
}

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// WithLabels returns a copy that carries further labels.
func (e *Error) WithLabels(labels ...string) *Error {
	c := *e
	c.Labels = append(append([]string(nil), e.Labels...), labels...)
	return &c
}

// WithoutLabel returns a copy that does not carry the label; one in a server's own words keeps what it has.
func (e *Error) WithoutLabel(label string) *Error {
	c := *e
	c.Labels = slices.DeleteFunc(slices.Clone(e.Labels), func(l string) bool { return l == label })
	return &c
}

// Doc is the reply document of the error.
func (e *Error) Doc() Doc {
	if e.Reply != nil {
		return e.Reply
	}
	i, d := bsoncore.AppendDocumentStart(nil)
	d = bsoncore.AppendDoubleElement(d, "ok", 0)
	d = bsoncore.AppendStringElement(d, "errmsg", e.Error())
	d = bsoncore.AppendInt32Element(d, "code", int32(e.Code))
	d = bsoncore.AppendStringElement(d, "codeName", e.Code.Name())
	if len(e.Labels) > 0 {
		var a int32
		a, d = bsoncore.AppendArrayElementStart(d, "errorLabels")
		for n, l := range e.Labels {
			d = bsoncore.AppendStringElement(d, fmt.Sprint(n), l)
		}
		d, _ = bsoncore.AppendArrayEnd(d, a)
	}
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}
