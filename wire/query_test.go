package wire

import (
	"errors"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

func TestParseQuery(t *testing.T) {
	for _, d := range dumps(t) {
		q, err := ParseQuery(d.b)
		switch d.name {
		case "query isMaster":
			if err != nil || string(q.DB) != "admin" || string(q.Name) != "isMaster" || q.RequestID != 5 {
				t.Errorf("%s: got %q %q %d, %v", d.name, q.DB, q.Name, q.RequestID, err)
			}
		case "query wrapped":
			if v, _ := q.Body.Lookup("ismaster"); err != nil || string(q.Name) != "ismaster" || !v.True() {
				t.Errorf("%s: got %q %v, %v", d.name, q.Name, q.Body, err)
			}
		case "query of another command":
			var e *Error
			if !errors.As(err, &e) || e.Code != UnsupportedOpQuery || q.RequestID != 5 {
				t.Errorf("%s: got %v, request %d", d.name, err, q.RequestID)
			}
		}
	}
}

func TestReply(t *testing.T) {
	want := doc(t, bson.D{{Key: "ok", Value: 1.0}})
	h, got, flags, err := ReadReply(AppendReply([]byte("xx"), 4, 3, want, AwaitCapable)[2:])
	if err != nil || h.RequestID != 4 || h.ResponseTo != 3 || string(got) != string(want) || flags != AwaitCapable {
		t.Errorf("got %v %v %d, %v", h, got, flags, err)
	}
	_, got, flags, err = ReadReply(AppendQueryFailure(nil, 4, 3, Errorf(UnsupportedOpQuery, "no")))
	if err != nil || flags != QueryFailure {
		t.Fatalf("flags %d, %v", flags, err)
	}
	var d struct {
		Err  string `bson:"$err"`
		Code int
		OK   float64
	}
	if err := bson.Unmarshal(got, &d); err != nil || d.Err != "tenantry: no" || d.Code != 352 || d.OK != 0 {
		t.Errorf("got %+v, %v", d, err)
	}
}
