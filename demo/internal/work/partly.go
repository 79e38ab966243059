package work

import (
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A batch of which the proxy has refused some writes has its others done. Directly only those are
// sent, so that the rest of both replies, and what there is afterwards, must be equal.

// batches are the fields of commands that hold their writes.
var batches = map[string]string{"insert": "documents", "update": "updates", "delete": "deletes", "bulkWrite": "ops"}

// failure is what a reply says of a write that has failed.
type failure struct {
	at  int // the write's place in the batch
	doc bson.D
}

func failures(reply bson.D) (out []failure) {
	for _, e := range array(get(reply, "writeErrors")) {
		at, _ := get(doc(e), "index").(int32)
		out = append(out, failure{int(at), doc(e)})
	}
	for _, row := range array(get(doc(get(reply, "cursor")), "firstBatch")) {
		if at, ok := get(doc(row), "idx").(int32); ok && get(doc(row), "ok") == 0.0 {
			out = append(out, failure{int(at), doc(row)})
		}
	}
	return out
}

// done is the command with those of its writes alone that were not refused, and the places that
// these have in the whole batch. An ordered batch ends with the first that is refused.
func (no *refusals) done(command bson.D) (part bson.D, places []int) {
	field := batches[name(command)]
	part = slices.Clone(command)
	for i, e := range part {
		if e.Key != field {
			continue
		}
		writes := bson.A{}
		for at, w := range array(e.Value) {
			if no.writes[at] != nil {
				if get(command, "ordered") != false {
					break
				}
				continue
			}
			writes, places = append(writes, w), append(places, at)
		}
		part[i].Value = writes
	}
	return part, places
}

// nothing is the reply to a batch of no writes.
func nothing(command bson.D) bson.D {
	out := bson.D{{Key: "ok", Value: 1.0}}
	switch name(command) {
	case "bulkWrite":
		out = append(out, bson.E{Key: "cursor", Value: bson.D{{Key: "firstBatch", Value: bson.A{}}, {Key: "id", Value: int64(0)}, {Key: "ns", Value: "admin.$cmd.bulkWrite"}}})
		for _, count := range []string{"nErrors", "nInserted", "nMatched", "nModified", "nUpserted", "nDeleted"} {
			out = append(out, bson.E{Key: count, Value: int32(0)})
		}
		return out
	case "update":
		out = append(out, bson.E{Key: "nModified", Value: int32(0)})
	}
	return append(out, bson.E{Key: "n", Value: int32(0)})
}

// rest is the reply without what it says of refused writes.
func (no *refusals) rest(reply bson.D) bson.D {
	out := eachRow(reply, func(row bson.D, at int) bson.D {
		if no.writes[at] != nil && get(row, "code") != nil {
			return nil
		}
		return row
	})
	for i, e := range out {
		if n, ok := e.Value.(int32); ok && e.Key == "nErrors" {
			out[i].Value = n - int32(len(no.writes))
		}
	}
	return out
}

// placed is the reply to a part of a batch with the places that its writes have in the whole one.
func placed(reply bson.D, places []int) bson.D {
	return eachRow(reply, func(row bson.D, at int) bson.D {
		row = slices.Clone(row)
		for i, e := range row {
			if slices.Contains(placeFields, e.Key) && at < len(places) {
				row[i].Value = int32(places[at])
			}
		}
		return row
	})
}

// placeFields are those in which a row of a reply has its write's place.
var placeFields = []string{"index", "idx"}

// eachRow is the reply with other rows where they speak of single writes; nil for one leaves it out.
func eachRow(reply bson.D, with func(row bson.D, at int) bson.D) bson.D {
	rows := func(a bson.A) bson.A {
		out := bson.A{}
		for _, v := range a {
			row := doc(v)
			for _, e := range row {
				if at, ok := e.Value.(int32); ok && slices.Contains(placeFields, e.Key) {
					row = with(row, int(at))
					break
				}
			}
			if row != nil {
				out = append(out, row)
			}
		}
		return out
	}
	var out bson.D
	for _, e := range reply {
		switch e.Key {
		case "writeErrors", "upserted":
			if e.Value = rows(array(e.Value)); len(array(e.Value)) == 0 {
				continue
			}
		case "cursor":
			c := slices.Clone(doc(e.Value))
			for i, f := range c {
				if f.Key == "firstBatch" {
					c[i].Value = rows(array(f.Value))
				}
			}
			e.Value = c
		}
		out = append(out, e)
	}
	return out
}
