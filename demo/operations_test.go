package demo

import (
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
)

// What servers do is told by a server's own words under logical names, also by a filter and by stages,
// which are about those.
func TestOperations(t *testing.T) {
	skipShort(t)
	front := proxy.Start(t, config("mixed", secantus.Start(t, secantus.Options{})))
	client := open(t, front.URI)
	insert(t, client.Database(shared), "orders", "a", isolated)
	admin := client.Database("admin")
	rows := map[string][]bson.M{}
	for name, cmd := range map[string]bson.D{
		"all":      {{Key: "currentOp", Value: 1}, {Key: "$all", Value: true}},
		"filtered": {{Key: "currentOp", Value: 1}, {Key: "opid", Value: bson.D{{Key: "$regex", Value: "^home:"}}}},
	} {
		var reply struct{ Inprog []bson.M }
		if err := admin.RunCommand(t.Context(), cmd).Decode(&reply); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		rows[name] = reply.Inprog
	}
	cursor, err := admin.Aggregate(t.Context(), mongo.Pipeline{
		{{Key: "$currentOp", Value: bson.D{{Key: "allUsers", Value: true}}}},
		{{Key: "$match", Value: bson.D{{Key: "opid", Value: bson.D{{Key: "$regex", Value: "^home:"}}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var staged []bson.M
	if err := cursor.All(t.Context(), &staged); err != nil {
		t.Fatal(err)
	}
	rows["staged"] = staged
	for name, list := range rows {
		if len(list) == 0 {
			t.Errorf("%s: there is no operation, not even its own", name)
		}
		for _, row := range list {
			id, _ := row["opid"].(string)
			if text := extended(row); !strings.HasPrefix(id, "home:") || strings.Contains(text, "smetasc_tenant_") || row["client"] != nil {
				t.Errorf("%s: %s", name, text)
			}
		}
	}
}
