package control

import (
	"context"
	"errors"

	"github.com/rs/zerolog"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// FileTable is the table that a configuration makes by itself: every flag of the file obeyed, no
// route and no tenants collection read. It answers where a command would go, for people.
func FileTable(cfg *config.Config) (*routing.Table, error) {
	alone := *cfg
	alone.Control.Enabled, alone.TenantsFrom = false, nil
	c := newControl(Options{Log: zerolog.Nop(), Router: &routing.Router{}})
	defer c.end()
	c.cluster = func(string) cluster { return absent{} }
	if err := c.Apply(context.Background(), &alone, nil); err != nil {
		return nil, err
	}
	return c.router.Current(), nil
}

// absent stands for the servers that a table of the file alone does not ask.
type absent struct{}

func (absent) Run(context.Context, string, wire.Doc) (wire.Doc, error) {
	return nil, errors.New("no server is asked")
}
