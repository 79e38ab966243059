// Command tenantry is a proxy that speaks the MongoDB wire protocol and sends each tenant's
// commands to where its data lives. It is the only place that knows all rooms: it builds them and
// joins them.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
)

// Exit codes, as the help says.
const (
	exitOK     = 0
	exitFailed = 1 // the work could not be done
	exitUsage  = 2 // the command line or the configuration is wrong
)

const usage = `tenantry routes the tenants of a MongoDB application to their databases.

usage:
  tenantry serve [--config FILE] [--drain TIME]
                                          run the proxy (default tenantry.toml); at its end commands
                                          under way have so long (default 20s)
  tenantry check FILE [--json]            validate a configuration and print what it means
  tenantry explain FILE 'COMMAND JSON'    where a command would go, by the file alone
  tenantry tenants [--admin URL] [--json] the tenants of a running proxy and where they are
                   [--drift]              and what differs between their own databases and shared
                   [--ca FILE] [--cert FILE] [--key FILE]
                                          for an https:// address: who made its certificate, and one's own
  tenantry user add NAME --role ROLE [--tenant KEY] [--isolation rows|database] [--sha1]
  tenantry user passwd|remove NAME        change the users file (--file, default users.toml); a password
  tenantry user list [--json]             is asked for, or read from the input with --password-stdin
  tenantry version

examples:
  tenantry check tenantry.toml
  tenantry user add app --role application
  tenantry explain tenantry.toml '{"find": "orders", "filter": {"tenantId": "acme"}}'

environment:
  MULTI_DB_MODE          disabled, mixed or forced; wins over the file
  MULTI_DB_TENANT_KEYS   a,b: tenants with databases of their own
  TENANTRY_ADMIN         admin address of a running proxy (default http://127.0.0.1:8017)
  TENANTRY_ADMIN_TOKEN   its token, where it asks for one
  TENANTRY_ADMIN_CA, TENANTRY_ADMIN_CERT, TENANTRY_ADMIN_KEY   as --ca, --cert, --key

exit codes: 0 done, 1 failed, 2 wrong usage or configuration
`

// version is set by the linker for releases; a build from a checkout says its commit.
var version = ""

func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

// usageError is a mistake on the command line or in the configuration.
type usageError struct{ error }

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	err := dispatch(args, stdout, stderr)
	var wrong usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &wrong):
		_, _ = fmt.Fprintf(stderr, "tenantry: %v\n", err)
		return exitUsage
	}
	_, _ = fmt.Fprintf(stderr, "tenantry: %v\n", err)
	return exitFailed
}

func dispatch(args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		_, _ = fmt.Fprint(stderr, usage)
		return usageError{errors.New("name a command")}
	}
	if asksForHelp(args) {
		_, err := fmt.Fprint(stdout, usage)
		return err
	}
	switch args[0] {
	case "serve":
		return serve(args[1:], stderr)
	case "check":
		return check(args[1:], stdout)
	case "explain":
		return explain(args[1:], stdout)
	case "tenants":
		return tenants(args[1:], stdout)
	case "user":
		return user(args[1:], stdout, stderr)
	case "version", "--version":
		_, err := fmt.Fprintln(stdout, "tenantry", buildVersion())
		return err
	}
	return usageError{fmt.Errorf("there is no command %q; see tenantry help", args[0])}
}

// asksForHelp also takes it for a question where --help follows a command.
func asksForHelp(args []string) bool {
	return args[0] == "help" || slices.ContainsFunc(args, func(a string) bool { return a == "--help" || a == "-h" })
}
