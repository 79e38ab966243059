package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/control"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// check validates a file and prints what it means.
func check(args []string, stdout io.Writer) error {
	asJSON := slices.Contains(args, "--json")
	args = slices.DeleteFunc(args, func(a string) bool { return a == "--json" })
	if len(args) != 1 {
		return usageError{errors.New("usage: tenantry check FILE [--json]")}
	}
	cfg, warnings, err := config.Load(args[0], os.Getenv)
	if asJSON {
		return checkJSON(warnings, err, stdout)
	}
	if err != nil {
		return usageError{err}
	}
	for _, w := range warnings {
		if _, err := fmt.Fprintln(stdout, "warning:", w); err != nil {
			return err
		}
	}
	return cfg.WriteSummary(stdout)
}

func checkJSON(warnings []config.Problem, err error, stdout io.Writer) error {
	var problems config.Errors
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	out := json.NewEncoder(stdout)
	out.SetIndent("", "  ")
	if encErr := out.Encode(map[string]any{"ok": err == nil, "errors": problems, "warnings": warnings}); encErr != nil {
		return encErr
	}
	if err != nil {
		return usageError{errors.New("the configuration is refused")}
	}
	return nil
}

// explain tells where a command would go by the file alone, with every flag obeyed.
func explain(args []string, stdout io.Writer) error {
	if len(args) != 2 {
		return usageError{errors.New("usage: tenantry explain FILE 'COMMAND JSON'")}
	}
	cfg, _, err := config.Load(args[0], os.Getenv)
	if err != nil {
		return usageError{err}
	}
	table, err := control.FileTable(cfg)
	if err != nil {
		return usageError{err}
	}
	var cmd bson.D
	if err := bson.UnmarshalExtJSON([]byte(args[1]), false, &cmd); err != nil {
		return usageError{fmt.Errorf("the command is no JSON document: %w", err)}
	}
	raw, err := bson.Marshal(cmd)
	if err != nil {
		return usageError{err}
	}
	db := ""
	for name := range table.Databases {
		db = name
		break
	}
	doc, werr := routing.Explain(table, wire.Doc(raw), db)
	if werr != nil {
		return usageError{werr}
	}
	return printDoc(stdout, bson.Raw(doc))
}

func printDoc(stdout io.Writer, doc bson.Raw) error {
	text, err := bson.MarshalExtJSONIndent(doc, false, false, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, string(text))
	return err
}

// tenants lists a running proxy's tenants.
func tenants(args []string, stdout io.Writer) error {
	base := os.Getenv("TENANTRY_ADMIN")
	asJSON := false
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--json":
			asJSON = true
		case args[i] == "--admin" && i+1 < len(args):
			i++
			base = args[i]
		default:
			return usageError{errors.New("usage: tenantry tenants [--admin URL] [--json]")}
		}
	}
	if base == "" {
		base = "http://127.0.0.1:8017"
	}
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(strings.TrimSuffix(base, "/") + "/tenants")
	if err != nil {
		return fmt.Errorf("ask the running proxy: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the running proxy answers %s", resp.Status)
	}
	if asJSON {
		_, err := io.Copy(stdout, resp.Body)
		return err
	}
	var list []control.TenantStatus
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return fmt.Errorf("read the proxy's answer: %w", err)
	}
	return printTenants(stdout, list)
}

func printTenants(stdout io.Writer, list []control.TenantStatus) error {
	w := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "KEY\tSTATE\tASKED FOR\tBY\tCLUSTER\tDATABASES\tNOTE")
	for _, t := range list {
		var dbs []string
		for _, d := range t.Databases {
			dbs = append(dbs, d)
		}
		slices.Sort(dbs)
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.Key, t.State, t.Mode, t.Source, t.Cluster, strings.Join(dbs, ","), t.Why)
	}
	return w.Flush()
}
