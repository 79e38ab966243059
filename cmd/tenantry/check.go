package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/control"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// check validates a file and prints what it means.
func check(args []string, stdout io.Writer) error {
	asJSON := slices.Contains(args, "--json")
	args = slices.DeleteFunc(args, func(a string) bool { return a == "--json" })
	if len(args) != 1 || strings.HasPrefix(args[0], "-") {
		return usageError{errors.New("usage: tenantry check FILE [--json]")}
	}
	cfg, warnings, err := config.Load(args[0], os.Getenv)
	if err == nil {
		err = checkClusters(args[0], cfg)
	}
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

// checkClusters is what config leaves to who speaks to servers: serve would end by it.
func checkClusters(path string, cfg *config.Config) error {
	var problems config.Errors
	for _, s := range clusterSpecs(cfg) {
		if err := backend.CheckURI(s.URI); err != nil {
			problems = append(problems, config.Problem{
				File: path, Key: "clusters." + s.Name + ".uri", Text: err.Error(), Remedy: "write the cluster's connection string as drivers take it",
			})
		}
	}
	if problems == nil {
		return nil
	}
	slices.SortFunc(problems, func(a, b config.Problem) int { return strings.Compare(a.Key, b.Key) })
	return problems
}

func checkJSON(warnings []config.Problem, err error, stdout io.Writer) error {
	problems := config.Errors{} // an empty list is easier on scripts than none
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	if warnings == nil {
		warnings = []config.Problem{}
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
	raw, err := parseCommand(args[1])
	if err != nil {
		return usageError{fmt.Errorf("the command is no JSON document: %w; write it as {\"find\": \"orders\"}, names in double quotes too", err)}
	}
	db := ""
	for name := range table.Databases {
		db = name
		break
	}
	doc, werr := routing.Explain(table, wire.Doc(raw), db)
	if werr != nil {
		return usageError{errors.New(werr.Text)}
	}
	return printDoc(stdout, bson.Raw(doc))
}

// parseCommand reads extended JSON. The BSON reader would not mind text behind the document.
func parseCommand(text string) ([]byte, error) {
	var whole json.RawMessage
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		return nil, err
	}
	var cmd bson.D
	if err := bson.UnmarshalExtJSON(whole, false, &cmd); err != nil {
		return nil, err
	}
	return bson.Marshal(cmd)
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
	flags := flag.NewFlagSet("tenants", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // what is wrong is said once, by main
	to := remoteFlags(flags)
	asJSON, drift := flags.Bool("json", false, ""), flags.Bool("drift", false, "")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("it takes no %q", flags.Arg(0))
	}
	if err != nil {
		return usageError{fmt.Errorf("tenants: %w; usage: tenantry tenants [--admin URL] [--ca FILE] [--cert FILE] [--key FILE] [--json] [--drift]", err)}
	}
	page := "/tenants"
	if *drift {
		page += "?drift=1"
	}
	body, err := to.ask(page)
	if err != nil {
		return err
	}
	if *asJSON {
		_, err := stdout.Write(body)
		return err
	}
	var list []control.TenantStatus
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("read the proxy's answer: %w", err)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(stdout, "no tenants are known; if the home cluster is away (/readyz tells), they are when it is back")
		return err
	}
	if *drift {
		return printDrift(stdout, list)
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

// printDrift prints a line for each difference, and fails where there is one or some tenant could
// not be compared.
func printDrift(stdout io.Writer, list []control.TenantStatus) error {
	w := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	compared, differ, unread := 0, 0, 0
	told := map[string]bool{}
	for _, t := range list {
		for _, name := range t.Tells {
			if coll, index, _ := strings.Cut(name, " "); !told[name] {
				told[name] = true
				_, _ = fmt.Fprintf(w, "(shared)\t%s\tthe unique index %s lacks the tenant field: a duplicate key tells bound connections that another tenant has the value\n", coll, index)
			}
		}
		if t.Drift == nil && t.NotCompared == "" {
			continue // it has no databases of its own
		}
		compared++
		for _, d := range t.Drift {
			differ++
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", t.Key, d.Collection, d.What)
		}
		if t.NotCompared != "" {
			unread++
			_, _ = fmt.Fprintf(w, "%s\t\tnot compared: %s\n", t.Key, t.NotCompared)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if differ+unread > 0 {
		return fmt.Errorf("%d differences from shared in %d tenants' own databases; %d tenants could not be compared", differ, compared, unread)
	}
	_, err := fmt.Fprintf(stdout, "%d tenants have databases of their own, which are defined as shared is\n", compared)
	return err
}
