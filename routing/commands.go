package routing

import (
	"strings"

	"github.com/smetasc/tenantry/wire"
)

// Command is one row of the table of commands. Nothing about a command is decided anywhere else.
type Command struct {
	Name    string
	Aliases []string // exact spellings that servers accept as well
	Fields  FieldSet // allowed top-level fields beside the generic ones
	Names   []NameLoc
	Tenant  TenantLoc
	Access  Access
	Route   Route
	Merge   MergeKind
	Bound   Bound
	Reply   ReplyKind
	Refuse  Refusal // of Route Refused, and of what the route can't serve yet over several homes
	Users   bool    // it is about users, which are no server's where clients authenticate
	// Operator says that only operators may send it, where clients authenticate.
	Operator bool
	Plain    bool // where no route touches what it names, an open connection's goes to the home cluster as it is
	// SharedLast says that of the holders shared comes last instead of first: what fails halfway can
	// be asked for again.
	SharedLast bool
	Drops      bool      // only where [routing] allow_drop_database says so
	Filters    bool      // what is no field of the row is a filter's, or asked for by its name
	View       *ViewRead // how it reads a view; nil: no view takes it
	Views      bool      // it may change which views there are, or what they are
}

// NameKind says how a place of a request names a namespace.
type NameKind uint8

// Kinds of names.
const (
	CollOfDB   NameKind = iota // the value is a collection of $db
	FullNS                     // the value is "db.coll"
	InPipeline                 // stages name collections and databases
	NSInfo                     // nsInfo[].ns of bulkWrite
	Inner                      // the value is a whole command
	SideColl                   // a further collection of $db
	OutputColl                 // where a command's result goes: a collection, or a document that names one, or neither
	Anywhere                   // the value, and fields at any depth that are called as namespaces are
)

// NameLoc is one place of a request that names a namespace; path "" is the command's own value.
type NameLoc struct {
	Kind NameKind
	Path string
}

// TenantKind says in which form a command carries its tenant.
type TenantKind uint8

// Kinds of tenant locations.
const (
	NoTenant TenantKind = iota
	InFilter
	InStages
	InDocuments
	InUpdates
	InDeletes
	InFindAndModify
	InInner
	InBulkOps
)

// TenantLoc is where a command's tenant is found.
type TenantLoc struct {
	Kind TenantKind
	Path fieldID
}

// Access is what a command does to data.
type Access uint8

// Accesses, in rising order of what they need; Session and Server stand apart.
const (
	None Access = iota
	Read
	Write
	DDL
	Session
	Server
)

// Route says how a command's targets are found.
type Route uint8

// Routes.
const (
	Refused     Route = iota
	Local             // the proxy answers
	Home              // home cluster as it is
	Shared            // the shared target
	ByTenant          // the tenant's home; none or several: by Refuse, or the _id
	EachHolder        // every holder of the collection
	FirstHolder       // shared's answer, else the first holder's that has one
	EachCluster       // every cluster
	ByCursor          // where the cursor is
	ByTxn             // where the transaction is
)

// MergeKind says how several replies become one, and what the answer is where there is none.
type MergeKind uint8

// Merge kinds.
const (
	MergeNone MergeKind = iota
	MergeCursor
	MergeCount
	MergeDistinct
	MergeWrite
	MergeOne
	MergeBulk
	MergeDDL
	MergeFigures
	MergePlans
	MergeCollections
	MergeDatabases
	MergeOperations
	MergeFirst
	MergeOK
)

// Bound is what a connection that is bound to a tenant may do. With isolation "rows" definitions and
// figures are of a database of the tenant's own only.
type Bound uint8

// Bound policies.
const (
	BoundDeny  Bound = iota
	BoundAllow       // as far as its access covers the row's
	BoundOwner       // with access "owner" only
	BoundLocal       // answered by the proxy
	BoundOwn         // as BoundAllow, in a database of the tenant's own
)

// ReplyKind says where a reply names namespaces, beside cursor.ns, errors and the generic fields.
type ReplyKind uint8

// Reply kinds.
const (
	ReplyGeneric   ReplyKind = iota
	ReplyNS                  // top-level ns, db, dropped
	ReplyExplain             // strings at any depth
	ReplyRows                // rows of the cursor name namespaces
	ReplyDatabases           // rows of databases
)

// Refusal is the answer to a command that is known and not served.
type Refusal struct {
	Code wire.Code
	Text string
}

func refusal(code wire.Code, text string) Refusal { return Refusal{code, text} }

const (
	addTenant = "add the tenant field to the filter"
	capped    = "make a capped collection one of [platform]"
)

var (
	coll     = []NameLoc{{CollOfDB, ""}}
	collPipe = []NameLoc{{CollOfDB, ""}, {InPipeline, "pipeline"}}
	anywhere = []NameLoc{{Anywhere, ""}}
	perHome  = func(what string) Refusal {
		return refusal(wire.IllegalOperation, what+" over the databases of several tenants is not offered; "+addTenant)
	}
	notOffered = func(what, instead string) Refusal {
		return refusal(wire.CommandNotSupported, what+" is not offered while tenants of this collection have databases of their own; "+instead)
	}
	notRouter = refusal(wire.CommandNotSupported, "this command is not offered by a router of tenants")
	noSuch    = refusal(wire.CommandNotFound, "no such command")
	noUsers   = refusal(wire.CommandNotSupported, "users and roles are the proxy's configuration")
)

// rows is the table of commands, by the sections of the server's manual: documents, definitions,
// figures and plans, sessions and transactions, identity, small talk. Those that are known and
// refused are added from lists.
var rows = []Command{
	// Documents.
	{
		Name: "find", Names: coll, Tenant: TenantLoc{InFilter, fFilter}, Access: Read, Route: ByTenant, Merge: MergeCursor,
		Bound: BoundAllow, Plain: true,
		Fields: fields("filter sort projection hint skip limit batchSize singleBatch max min returnKey showRecordId tailable " +
			"oplogReplay noCursorTimeout awaitData allowPartialResults collation allowDiskUse let"),
		View: &ViewRead{
			Parts: []ViewPart{
				{fFilter, asStage("$match")},
				{fSort, asStage("$sort")},
				{fSkip, amount("$skip", false)},
				{fLimit, amount("$limit", false)},
				{fProjection, asStage("$project")},
			},
			Keep: fields("hint allowDiskUse let"),
			Deny: fields("max min returnKey showRecordId tailable awaitData noCursorTimeout allowPartialResults singleBatch"),
		},
	},
	{
		Name: "aggregate", Names: collPipe, Tenant: TenantLoc{InStages, fPipeline}, Access: Read, Route: ByTenant, Merge: MergeCursor,
		Bound: BoundAllow, Plain: true, Reply: ReplyRows, Refuse: perHome("aggregate"),
		Fields: fields("pipeline explain allowDiskUse cursor bypassDocumentValidation collation hint let"),
		View: &ViewRead{
			Parts: []ViewPart{{fPipeline, stagesOf}},
			Keep:  fields("explain allowDiskUse cursor bypassDocumentValidation hint let"),
		},
	},
	{
		Name: "count", Names: coll, Tenant: TenantLoc{InFilter, fQuery}, Access: Read, Route: ByTenant, Merge: MergeCount,
		Bound: BoundAllow, Plain: true, Fields: fields("query limit skip hint collation fields"),
		View: &ViewRead{
			Parts: []ViewPart{{fQuery, asStage("$match")}, {fSkip, amount("$skip", false)}, {fLimit, amount("$limit", true)}},
			Last:  one("$count", wire.StringValue(shaped)), Keep: fields("hint"), Shape: AsCount,
		},
	},
	{
		Name: "distinct", Names: coll, Tenant: TenantLoc{InFilter, fQuery}, Access: Read, Route: ByTenant, Merge: MergeDistinct,
		Bound: BoundAllow, Plain: true, Fields: fields("key query collation hint"),
		View: &ViewRead{
			Parts: []ViewPart{{fQuery, asStage("$match")}, {fKey, distinctBy}}, Keep: fields("hint"), Shape: AsValues,
		},
	},
	{
		Name: "insert", Names: coll, Tenant: TenantLoc{InDocuments, fDocuments}, Access: Write, Route: ByTenant, Merge: MergeWrite,
		Bound: BoundAllow, Plain: true,
		Fields: fields("documents ordered bypassDocumentValidation bypassEmptyTsReplacement"),
	},
	{
		Name: "update", Names: coll, Tenant: TenantLoc{InUpdates, fUpdates}, Access: Write, Route: ByTenant, Merge: MergeWrite,
		Bound: BoundAllow, Plain: true,
		Fields: fields("updates ordered bypassDocumentValidation bypassEmptyTsReplacement let"),
	},
	{
		Name: "delete", Names: coll, Tenant: TenantLoc{InDeletes, fDeletes}, Access: Write, Route: ByTenant, Merge: MergeWrite,
		Bound: BoundAllow, Plain: true,
		Fields: fields("deletes ordered bypassDocumentValidation bypassEmptyTsReplacement let"),
	},
	{
		Name: "findAndModify", Aliases: []string{"findandmodify"}, Names: coll, Tenant: TenantLoc{InFindAndModify, fQuery},
		Access: Write, Route: ByTenant, Merge: MergeOne, Bound: BoundAllow, Plain: true,
		Fields: fields("query sort remove update new fields upsert bypassDocumentValidation bypassEmptyTsReplacement " +
			"collation arrayFilters hint let"),
	},
	{
		Name: "bulkWrite", Names: []NameLoc{{NSInfo, "nsInfo"}}, Tenant: TenantLoc{InBulkOps, field("ops")}, Access: Write,
		Route: ByTenant, Merge: MergeBulk, Bound: BoundAllow, Plain: true,
		Fields: fields("ops nsInfo ordered bypassDocumentValidation bypassEmptyTsReplacement let errorsOnly cursor"),
	},
	{
		Name: "mapReduce", Aliases: []string{"mapreduce"}, Names: []NameLoc{{CollOfDB, ""}, {OutputColl, "out"}}, Tenant: TenantLoc{InFilter, fQuery},
		Access: Write, Route: ByTenant, Plain: true,
		Fields: fields("map reduce out query sort limit finalize scope jsMode verbose bypassDocumentValidation collation"),
		Refuse: refusal(wire.CommandNotSupported, "it has to be of one home: name one tenant in its query, or say the same by an aggregate with $group"),
	},
	{
		Name: "getMore", Names: []NameLoc{{SideColl, "collection"}}, Access: Read, Route: ByCursor, Merge: MergeCursor, Bound: BoundAllow,
		Fields: fields("collection batchSize maxAwaitTimeMS term"),
	},
	{Name: "killCursors", Names: coll, Access: Read, Route: ByCursor, Merge: MergeOK, Bound: BoundAllow, Fields: fields("cursors")},
	{
		Name: "explain", Names: []NameLoc{{Inner, ""}}, Tenant: TenantLoc{InInner, 0}, Access: Read, Route: ByTenant, Merge: MergePlans,
		Bound: BoundOwn, Plain: true, Reply: ReplyExplain, Refuse: perHome("explain"), Fields: fields("verbosity"),
	},

	// Definitions.
	{
		Name: "create", Names: []NameLoc{{CollOfDB, ""}, {SideColl, "viewOn"}, {InPipeline, "pipeline"}}, Access: DDL,
		Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true, Views: true,
		Fields: fields("capped timeseries expireAfterSeconds clusteredIndex changeStreamPreAndPostImages autoIndexId idIndex size max " +
			"storageEngine validator validationLevel validationAction indexOptionDefaults viewOn pipeline collation encryptedFields flags"),
	},
	{
		Name: "createIndexes", Names: coll, Access: DDL, Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true,
		Fields: fields("indexes commitQuorum ignoreUnknownIndexOptions"),
	},
	{
		Name: "dropIndexes", Aliases: []string{"deleteIndexes"}, Names: coll, Access: DDL, Route: EachHolder, Merge: MergeDDL,
		Bound: BoundOwner, Plain: true, Fields: fields("index"),
	},
	{
		Name: "drop", Names: coll, Access: DDL, Route: EachHolder, Merge: MergeDDL, SharedLast: true, Bound: BoundOwner, Plain: true,
		Reply: ReplyNS, Views: true,
	},
	{
		Name: "dropDatabase", Access: DDL, Route: EachHolder, Merge: MergeDDL, SharedLast: true, Drops: true, Bound: BoundOwner, Plain: true, Reply: ReplyNS,
		Views:  true,
		Refuse: refusal(wire.CommandNotSupported, "dropDatabase is not offered while tenants have databases of their own"),
	},
	{
		Name: "renameCollection", Names: []NameLoc{{FullNS, ""}, {FullNS, "to"}}, Access: DDL, Route: Refused, Bound: BoundOwner, Plain: true,
		Fields: fields("to dropTarget"), Refuse: notOffered("renameCollection", "copy the documents into a collection of the other name"),
	},
	{
		Name: "collMod", Names: []NameLoc{{CollOfDB, ""}, {SideColl, "viewOn"}, {InPipeline, "pipeline"}}, Access: DDL, Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true,
		Views: true,
		Fields: fields("index validator validationLevel validationAction viewOn pipeline changeStreamPreAndPostImages expireAfterSeconds " +
			"timeseries cappedSize cappedMax dryRun"),
	},
	{
		Name: "convertToCapped", Names: coll, Access: DDL, Route: Refused, Bound: BoundOwner, Plain: true,
		Fields: fields("size"), Refuse: notOffered("convertToCapped", capped),
	},
	{
		Name: "cloneCollectionAsCapped", Names: []NameLoc{{CollOfDB, ""}, {SideColl, "toCollection"}}, Access: DDL, Route: Refused,
		Bound: BoundOwner, Plain: true, Fields: fields("toCollection size"), Refuse: notOffered("cloneCollectionAsCapped", capped),
	},
	{
		Name: "createSearchIndexes", Names: coll, Access: DDL, Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true, Reply: ReplyNS,
		Fields: fields("indexes"),
	},
	{
		Name: "updateSearchIndex", Names: coll, Access: DDL, Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true, Reply: ReplyNS,
		Fields: fields("id name definition"),
	},
	{
		Name: "dropSearchIndex", Names: coll, Access: DDL, Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true, Reply: ReplyNS,
		Fields: fields("id name"),
	},
	{
		Name: "listSearchIndexes", Names: coll, Access: Read, Route: FirstHolder, Merge: MergeFirst, Bound: BoundOwn, Plain: true,
		Fields: fields("id name"),
	},
	{
		Name: "setIndexCommitQuorum", Names: coll, Access: DDL, Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true,
		Fields: fields("indexNames commitQuorum"),
	},
	{Name: "reIndex", Names: coll, Access: DDL, Route: Refused, Plain: true, Refuse: notRouter},
	{Name: "compact", Names: coll, Access: Server, Route: Refused, Plain: true, Refuse: notRouter},
	{Name: "autoCompact", Access: Server, Route: Refused, Plain: true, Refuse: notRouter},
	{
		Name: "compactStructuredEncryptionData", Names: coll, Access: DDL, Route: Refused, Plain: true, Refuse: notRouter,
		Fields: fields("compactionTokens encryptionInformation anchorPaddingFactor"),
	},
	{
		Name: "cleanupStructuredEncryptionData", Names: coll, Access: DDL, Route: Refused, Plain: true, Refuse: notRouter,
		Fields: fields("cleanupTokens"),
	},
	{
		Name: "getQueryableEncryptionCountInfo", Names: coll, Access: Server, Route: Refused, Plain: true, Refuse: notRouter,
		Fields: fields("tokens queryType"),
	},
	{
		Name: "listCollections", Access: Read, Route: EachHolder, Merge: MergeCollections, Bound: BoundAllow, Plain: true, Reply: ReplyRows,
		Fields: fields("filter nameOnly authorizedCollections cursor"),
	},
	{
		Name: "listIndexes", Names: coll, Access: Read, Route: FirstHolder, Merge: MergeFirst, Bound: BoundAllow, Plain: true, Reply: ReplyRows,
		Fields: fields("cursor"),
	},
	{
		Name: "listDatabases", Access: Read, Route: EachCluster, Merge: MergeDatabases, Bound: BoundLocal, Reply: ReplyDatabases,
		Fields: fields("filter nameOnly authorizedDatabases"),
	},

	// Figures and plans.
	{
		Name: "currentOp", Access: Server, Route: EachCluster, Merge: MergeOperations, Plain: true, Filters: true,
		Fields: fields("$all $ownOps $truncateOps"),
	},
	{Name: "killOp", Access: Server, Route: EachCluster, Merge: MergeOperations, Plain: true, Fields: fields("op")},
	{
		Name: "collStats", Aliases: []string{"collstats"}, Names: coll, Access: Read, Route: EachHolder, Merge: MergeFigures, Bound: BoundOwn, Plain: true, Reply: ReplyNS,
		Fields: fields("scale"),
	},
	{
		Name: "dbStats", Aliases: []string{"dbstats"}, Access: Read, Route: EachHolder, Merge: MergeFigures, Bound: BoundOwner, Plain: true, Reply: ReplyNS,
		Fields: fields("scale freeStorage"),
	},
	{
		Name: "dataSize", Aliases: []string{"datasize"}, Names: []NameLoc{{FullNS, ""}}, Access: Read, Route: EachHolder, Merge: MergeFigures, Bound: BoundOwner, Plain: true,
		Fields: fields("keyPattern min max estimate"),
	},
	{
		Name: "validate", Names: coll, Access: Read, Route: EachHolder, Merge: MergeFigures, Bound: BoundOwner, Plain: true, Reply: ReplyNS,
		Fields: fields("full scandata repair metadata checkBSONConformance background"),
	},
	{
		Name: "planCacheClear", Names: coll, Access: Server, Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true,
		Fields: fields("query sort projection collation"),
	},
	{
		Name: "planCacheClearFilters", Names: coll, Access: Server, Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true,
		Fields: fields("query sort projection collation"),
	},
	{
		Name: "planCacheSetFilter", Names: coll, Access: Server, Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true,
		Fields: fields("query sort projection collation indexes"),
	},
	{Name: "planCacheListFilters", Names: coll, Access: Server, Route: EachHolder, Merge: MergeDDL, Bound: BoundOwner, Plain: true},
	{Name: "serverStatus", Access: Server, Route: Local, Bound: BoundLocal, Plain: true},
	{Name: "hostInfo", Access: Server, Route: Local, Bound: BoundLocal, Plain: true},
	{Name: "connPoolStats", Access: Server, Route: Local, Bound: BoundLocal, Plain: true},
	{Name: "getCmdLineOpts", Access: Server, Route: Local, Bound: BoundLocal, Plain: true},
	{Name: "getLog", Access: Server, Route: Local, Bound: BoundLocal, Plain: true},
	{Name: "getDiagnosticData", Access: Server, Route: Local, Bound: BoundLocal, Plain: true},
	{Name: "getTrafficRecordingStatus", Access: Server, Route: Local, Bound: BoundLocal, Plain: true},

	// Sessions and transactions.
	{Name: "startSession", Access: Session, Route: Local, Bound: BoundLocal},
	{Name: "endSessions", Access: Session, Route: EachCluster, Merge: MergeOK, Bound: BoundAllow},
	{Name: "refreshSessions", Access: Session, Route: EachCluster, Merge: MergeOK, Bound: BoundAllow},
	{Name: "killSessions", Access: Session, Route: EachCluster, Merge: MergeOK, Bound: BoundAllow},
	{Name: "killAllSessions", Access: Server, Route: Refused, Operator: true, Plain: true, Refuse: notRouter},
	{Name: "killAllSessionsByPattern", Access: Server, Route: Refused, Operator: true, Plain: true, Refuse: notRouter},
	{Name: "commitTransaction", Access: Session, Route: ByTxn, Bound: BoundAllow, Fields: fields("recoveryToken")},
	{Name: "abortTransaction", Access: Session, Route: ByTxn, Bound: BoundAllow, Fields: fields("recoveryToken")},

	// Identity.
	{Name: "saslStart", Access: None, Route: Local, Bound: BoundLocal, Fields: fields("mechanism payload options autoAuthorize")},
	{Name: "saslContinue", Access: None, Route: Local, Bound: BoundLocal, Fields: fields("conversationId payload")},
	{Name: "authenticate", Access: None, Route: Local, Bound: BoundLocal, Fields: fields("mechanism user nonce key")},
	{Name: "logout", Access: None, Route: Local, Bound: BoundLocal},
	{Name: "getnonce", Access: None, Route: Refused, Plain: true, Refuse: noSuch},
	{Name: "connectionStatus", Access: None, Users: true, Route: Local, Bound: BoundLocal, Plain: true, Fields: fields("showPrivileges showAuthorizationRestrictions")},

	// Small talk.
	{Name: "hello", Access: None, Route: Local, Bound: BoundLocal, Fields: helloFields},
	{Name: "isMaster", Aliases: []string{"ismaster"}, Access: None, Route: Local, Bound: BoundLocal, Fields: helloFields},
	{Name: "ping", Access: None, Route: Home, Bound: BoundAllow, Plain: true},
	{Name: "buildInfo", Aliases: []string{"buildinfo"}, Access: None, Route: Home, Bound: BoundAllow, Plain: true},
	{Name: "getDefaultRWConcern", Access: None, Route: Home, Bound: BoundAllow, Plain: true, Fields: fields("inMemory")},
	{Name: "whatsmyuri", Access: None, Route: Local, Bound: BoundLocal, Plain: true},
	{Name: "listCommands", Access: None, Route: Local, Bound: BoundLocal, Plain: true},
	{Name: "isdbgrid", Access: None, Route: Local, Bound: BoundLocal, Plain: true},
	{
		Name: "getParameter", Access: None, Route: Local, Bound: BoundLocal, Plain: true, Filters: true,
		Fields: fields("featureCompatibilityVersion authenticationMechanisms allParameters showDetails"),
	},
	{Name: "tenantryExplain", Access: None, Route: Local, Operator: true, Bound: BoundDeny},
}

var helloFields = fields("helloOk client compression speculativeAuthenticate saslSupportedMechs topologyVersion maxAwaitTimeMS " +
	"loadBalanced backpressure hostInfo internalClient hangUpOnStepDown")

// refusedRows are commands that servers know and a router does not offer; the list is for good
// texts only: what is in no row is refused as well.
var refusedRows = []struct {
	Refusal
	names string
}{
	{notRouter, `geoSearch releaseMemory dbHash dbhash validateDBMetadata top lockInfo profile
		setQuerySettings removeQuerySettings logApplicationMessage
		replSetAbortPrimaryCatchUp replSetFreeze replSetGetConfig replSetGetStatus replSetGetRBID replSetInitiate
		replSetMaintenance replSetReconfig replSetResizeOplog replSetStepDown replSetSyncFrom replSetHeartbeat
		replSetRequestVotes replSetUpdatePosition appendOplogNote applyOps dbCheck
		addShard addShardToZone removeShard removeShardFromZone startShardDraining stopShardDraining
		shardDrainingStatus commitShardRemoval transitionFromDedicatedConfigServer transitionToDedicatedConfigServer
		listShards getShardMap getShardVersion shardingState enableSharding shardCollection reshardCollection
		abortReshardCollection commitReshardCollection cleanupReshardCollection moveCollection abortMoveCollection
		unshardCollection abortUnshardCollection rewriteCollection abortRewriteCollection refineCollectionShardKey
		moveChunk moveRange movePrimary changePrimary mergeChunks mergeAllChunksOnShard split splitVector
		autoSplitVector clearJumboFlag cleanupOrphaned updateZoneKeyRange setAllowMigrations balancerStart balancerStop
		balancerStatus balancerCollectionStatus configureCollectionBalancing configureQueryAnalyzer analyzeShardKey
		checkMetadataConsistency checkShardingIndex flushRouterConfig repairShardedCollectionChunksHistory
		resetPlacementHistory createUnsplittableCollection untrackUnshardedCollection getDatabaseVersion
		getShardingReady setShardVersion splitChunk unsetSharding waitForOngoingChunkSplits
		transitionToShardedCluster getTransitionToDedicatedConfigServerStatus analyze
		fsync fsyncUnlock shutdown logRotate rotateCertificates setParameter setClusterParameter getClusterParameter
		setFeatureCompatibilityVersion setDefaultRWConcern setUserWriteBlockMode setProfilingFilterGlobally
		dropConnections getAuditConfig setAuditConfig configureFailPoint sleep filemd5 startTrafficRecording
		stopTrafficRecording cpuload oidcListKeys oidcRefreshKeys wiredTigerRepair getMetricsFilteringAllowlist
		updateMetricsFilteringAllowlist`},
	{noUsers, `usersInfo rolesInfo createUser updateUser dropUser dropAllUsersFromDatabase grantRolesToUser
		revokeRolesFromUser createRole updateRole dropRole dropAllRolesFromDatabase grantPrivilegesToRole
		revokePrivilegesFromRole grantRolesToRole revokeRolesFromRole invalidateUserCache`},
	{noSuch, `clusterAggregate clusterFind clusterGetMore clusterCount clusterInsert clusterUpdate clusterDelete
		clusterBulkWrite clusterAbortTransaction clusterCommitTransaction atlasVersion getFreeMonitoringStatus
		getLastError getPrevError resetError coordinateCommitTransaction prepareTransaction`},
}

var (
	commands     = buildCommands()
	commandWords = wordMapOf(commands) // the same, for each command
)

func buildCommands() map[string]*Command {
	m := make(map[string]*Command, 256)
	add := func(name string, c *Command) {
		if m[name] != nil {
			panic("routing: two rows for command " + name)
		}
		m[name] = c
	}
	for i := range rows {
		c := &rows[i]
		add(c.Name, c)
		for _, a := range c.Aliases {
			add(a, c)
		}
	}
	for _, r := range refusedRows {
		for name := range strings.FieldsSeq(r.names) {
			add(name, &Command{
				Name: name, Names: anywhere, Access: Server, Route: Refused, Refuse: r.Refusal, Plain: true, Users: r.Refusal == noUsers,
			})
		}
	}
	return m
}

// Commands calls yield for each row of the table.
func Commands(yield func(*Command) bool) {
	for i := range rows {
		if !yield(&rows[i]) {
			return
		}
	}
}

// Batch is the name of the field, or of the document sequence, that holds the command's writes.
func (c *Command) Batch() string { return fieldNames[c.Tenant.Path] }

// Offered reports whether the router serves the command, at least for some requests.
func (c *Command) Offered() bool { return c.Route != Refused }
