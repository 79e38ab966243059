package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/smetasc/tenantry/demo/internal/tree"
)

const guideText = `tenantry runs; Ctrl-C stops everything.

  connect to            mongodb://$PROXY/$SHARED
  the server behind it  mongodb://$BACKEND/ (embedded FerretDB, in $DATA)
  configuration         $CONFIG
  metrics               http://$ADMIN/metrics
  log                   $LOG

Try in another terminal:

1. The application sees one database with everybody's orders.
   $MONGOSH --quiet 'mongodb://$PROXY/$SHARED' --eval 'db.orders.find({tenantId: "acme"}, {number: 1, status: 1})'

2. Ask the server itself: acme's orders are in a database of their own, and none in the shared one.
   $MONGOSH --quiet 'mongodb://$BACKEND/smetasc_tenant_acme' --eval 'db.orders.countDocuments({})'
   $MONGOSH --quiet 'mongodb://$BACKEND/$SHARED' --eval 'db.orders.countDocuments({tenantId: "acme"})'

3. Isolate the next tenant: change umbrella's line in the configuration, by hand or with
   $EDIT
   then wait two seconds, or ask to be told that the change is in force,
   curl -X POST http://$ADMIN/reload
   give it an order through the proxy, and see where it went.
   $MONGOSH --quiet 'mongodb://$PROXY/$SHARED' --eval 'db.orders.insertOne({tenantId: "umbrella", number: 1, total: 7})'
   $MONGOSH --quiet 'mongodb://$BACKEND/smetasc_tenant_umbrella' --eval 'db.orders.find()'
   (The order of the two matters: a tenant that already has documents is moved, not flipped.)

4. What the proxy counted so far.
   curl -s http://$ADMIN/metrics | grep tenantry
`

// guide prints what a newcomer can do now.
func guide(out io.Writer, p places) {
	fmt.Fprint(out, strings.NewReplacer(
		"$PROXY", p.proxy(), "$BACKEND", p.backend(), "$ADMIN", p.admin(), "$SHARED", sharedDatabase,
		"$DATA", near(p.dataDir()), "$CONFIG", near(p.configFile()), "$LOG", near(p.logFile()),
		"$EDIT", umbrellaEdit(near(p.configFile())), "$MONGOSH", mongosh(),
	).Replace(guideText))
}

// mongosh is the one that setup.sh installed if it did.
func mongosh() string {
	if root, err := tree.Root(); err == nil {
		file := filepath.Join(root, ".cache", "node", "node_modules", ".bin", "mongosh")
		if _, err := os.Stat(file); err == nil {
			return near(file)
		}
	}
	return "mongosh"
}

// near is the path from the working directory if that is below it.
func near(file string) string {
	wd, err := os.Getwd()
	if err != nil {
		return file
	}
	rel, err := filepath.Rel(wd, file)
	if err != nil || strings.HasPrefix(rel, "..") {
		return file
	}
	return rel
}
