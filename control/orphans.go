package control

import (
	"context"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/wire"
)

// warnOfOrphans looks, at the start, for databases with documents that have the name of a tenant's own and are
// none's: what a lost control database leaves. Nobody sees what is in them.
func (c *Control) warnOfOrphans(ctx context.Context) {
	c.mu.Lock()
	r := c.rules
	c.mu.Unlock()
	var found []string
	for _, name := range sortedKeys(r.cfg.Clusters) {
		if at := c.cluster(name); at != nil {
			found = append(found, c.orphansAt(ctx, r, name, at)...)
		}
	}
	if len(found) > 0 {
		c.log.Warn().Strs("databases", found[:min(len(found), 20)]).Int("number", len(found)).
			Msg("databases hold documents under the names of tenants' own, and no tenant has them: nobody sees these documents. Where the control database was lost, restore it")
	}
}

// orphansAt are those of one cluster, "cluster/database"; none where it does not say.
func (c *Control) orphansAt(ctx context.Context, r *rules, name string, at cluster) (found []string) {
	reply, err := run(ctx, at, "admin", bson.D{{Key: "listDatabases", Value: int32(1)}, {Key: "nameOnly", Value: true}}, nil)
	if err != nil {
		return nil
	}
	_ = eachOf(reply, "databases", func(d wire.Doc) error {
		db, _ := lookText(d, "name")
		if !r.isOwnName(db) || c.belongs(name, db) {
			return nil
		}
		stats, err := run(ctx, at, db, bson.D{{Key: "dbStats", Value: int32(1)}}, nil)
		objects, _ := stats.Lookup("objects")
		if n, _ := objects.Int(); err == nil && n > 0 {
			found = append(found, name+"/"+db)
		}
		return nil
	})
	return found
}

// isOwnName reports whether a database has the name of a tenant's own.
func (r *rules) isOwnName(db string) bool {
	if slices.Contains(r.databases, db) || r.cfg.Control.Enabled && db == r.cfg.Control.Database {
		return false
	}
	return slices.ContainsFunc(r.cfg.Routing.Databases, func(d config.Database) bool { return d.IsOwn(db) })
}

// belongs reports whether a database is some tenant's.
func (c *Control) belongs(cluster, db string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.order {
		if t.spec == nil || t.spec.Cluster != cluster {
			continue
		}
		for _, own := range t.spec.Databases {
			if own == db {
				return true
			}
		}
	}
	return false
}
