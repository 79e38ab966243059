package backend

import (
	"context"
	"net/http"
	"time"

	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/auth"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/description"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/mnet"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology"
)

// What this room uses of x/mongo, which promises nothing between versions. After a change of the
// driver's version this list says at compile time what moved; the scripted election and kill tests
// say whether it still behaves. It was written for v2.10.0.
var (
	_ func(driver.Authenticator, ...topology.AuthConfigOption) (*topology.Config, error) = topology.NewAuthenticatorConfig
	_ func(*options.ClientOptions) topology.AuthConfigOption                             = topology.WithAuthConfigClientOptions
	_ func(*options.Credential) *driver.Cred                                             = topology.ConvertCreds
	_ func(*options.ServerAPIOptions) *driver.ServerAPIOptions                           = topology.ConvertToDriverAPIOptions
	_ func(*topology.Config) (*topology.Topology, error)                                 = topology.New
	_ func(string, *auth.Cred, *http.Client) (auth.Authenticator, error)                 = auth.CreateAuthenticator
	_ func(driver.Handshaker, *auth.HandshakeOptions) driver.Handshaker                  = auth.Handshaker
	_ func(bsoncore.Document) error                                                      = driver.ExtractErrorFromServerResponse

	_ watched  = (*topology.Topology)(nil)
	_ reported = (*topology.SelectedServer)(nil)
	_ error    = topology.ConnectionError{ConnectionID: "", Wrapped: nil} // matched by value
	_ error    = driver.Error{}
	_ error    = driver.WriteCommandError{WriteConcernError: &driver.WriteConcernError{}}

	_ mnet.Describer       = (*described)(nil)
	_ mnet.ReadWriteCloser = (*greeting)(nil)

	_ = event.PoolEvent{Type: event.ConnectionPoolCleared, Address: "", Interruption: true}
	_ = [...]driver.ProcessErrorResult{driver.NoChange, driver.ServerMarkedUnknown, driver.ConnectionPoolCleared}
	_ = description.Server{
		AverageRTT: time.Second, LastError: nil, LastUpdateTime: time.Time{}, LastWriteTime: time.Time{},
		MaxBatchCount: uint32(0), MaxDocumentSize: uint32(0), MaxMessageSize: uint32(0), SessionTimeoutMinutes: (*int64)(nil),
		WireVersion: &description.VersionRange{Min: int32(0), Max: int32(0)}, Compression: []string(nil), Tags: nil,
	}
)

// watched is what we ask of the driver's topology.
type watched interface {
	Connect() error
	Disconnect(context.Context) error
	Subscribe() (*driver.Subscription, error)
	RequestImmediateCheck()
	FindServer(description.Server) (*topology.SelectedServer, error)
}

// reported is what we ask of one of its servers.
type reported interface {
	ProcessError(error, mnet.Describer) driver.ProcessErrorResult
	RequestImmediateCheck()
}
