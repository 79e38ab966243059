package routing

import "strings"

// fieldID numbers the top-level fields that any row of the command table knows.
type fieldID uint8

// FieldSet is a set of top-level fields.
type FieldSet [4]uint64

func (s *FieldSet) add(id fieldID)      { s[id>>6] |= 1 << (id & 63) }
func (s *FieldSet) has(id fieldID) bool { return s[id>>6]&(1<<(id&63)) != 0 }

var (
	fieldIDs   = newWordMap[int](512)
	fieldNames = []string{""} // by id; 0 is no field
)

func field(name string) fieldID {
	if id := idOf(name); id != 0 {
		return id
	}
	id := fieldID(len(fieldNames))
	if int(id) != len(fieldNames) {
		panic("routing: more than 255 fields")
	}
	fieldNames = append(fieldNames, name)
	fieldIDs.set(name, int(id))
	return id
}

// idOf is the number of a field; 0 for one that no row knows.
func idOf[T string | []byte](name T) fieldID { return fieldID(fieldIDs.find([]byte(name))) }

// fields is the set of the names in a space-separated list.
func fields(names string) FieldSet {
	var s FieldSet
	for n := range strings.FieldsSeq(names) {
		s.add(field(n))
	}
	return s
}

// The fields that code asks for by name.
var (
	fDB          = field("$db")
	fLSID        = field("lsid")
	fTxnNumber   = field("txnNumber")
	fAutocommit  = field("autocommit")
	fStartTxn    = field("startTransaction")
	fWriteConc   = field("writeConcern")
	fFilter      = field("filter")
	fQuery       = field("query")
	fUpdate      = field("update")
	fUpdates     = field("updates")
	fDeletes     = field("deletes")
	fDocuments   = field("documents")
	fPipeline    = field("pipeline")
	fCollation   = field("collation")
	fComment     = field("comment")
	fExplain     = field("explain")
	fVerbosity   = field("verbosity")
	fLet         = field("let")
	fUpsert      = field("upsert")
	fSort        = field("sort")
	fRemove      = field("remove")
	fTailable    = field("tailable")
	fAwaitData   = field("awaitData")
	fNsInfo      = field("nsInfo")
	fViewOn      = field("viewOn")
	fUUID        = field("collectionUUID")
	fEncryption  = field("encryptionInformation")
	fReturnKey   = field("returnKey")
	fLimit       = field("limit")
	fSkip        = field("skip")
	fProjection  = field("projection")
	fKey         = field("key")
	fCursor      = field("cursor")
	fBatchSize   = field("batchSize")
	fSingleBatch = field("singleBatch")
)

// generic are the fields that every command may carry (IDL generic_argument.idl).
var generic = fields("$db lsid txnNumber autocommit startTransaction stmtId stmtIds $clusterTime " +
	"readConcern writeConcern maxTimeMS $readPreference comment apiVersion apiStrict apiDeprecationErrors")

// internal are the generic fields that belong between servers; nobody may send them.
var internal = fields("$audit $client $configServerState $oplogQueryData $queryOptions $replData " +
	"databaseVersion shardVersion tracking_info coordinator maxTimeMSOpOnly $configTime $topologyTime " +
	"txnRetryCounter mayBypassWriteBlocking $tenant expectPrefix clientOperationKey " +
	"allowImplicitCollectionCreation $impersonatedUsers $impersonatedRoles " + upsertSupplied)

// upsertSupplied is a field of updates by which the document that an upsert makes is none of the update's: a
// router of shards sends that document beside it (c.new).
const upsertSupplied = "upsertSupplied"

// Generic reports whether every command may carry the field.
func Generic(name []byte) bool {
	id := idOf(name)
	return id != 0 && generic.has(id)
}

// Takes reports whether the field is one of the command's own.
func (c *Command) Takes(name []byte) bool {
	id := idOf(name)
	return id != 0 && c.Fields.has(id)
}
