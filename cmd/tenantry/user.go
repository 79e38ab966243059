package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/config"
)

const userUsage = `usage: tenantry user add NAME --role ROLE [--tenant KEY] [--isolation rows|database] [--sha1]
       tenantry user passwd NAME [--sha1]
       tenantry user remove NAME
       tenantry user list [--json]
with --file FILE (default users.toml), --source DATABASE (default admin), --password-stdin`

// userArgs is what the command line of tenantry user says.
type userArgs struct {
	verb, name, file, source    string
	role, tenant, isolation     string
	sha1, passwordStdin, asJSON bool
}

// user makes and changes the users file. A running proxy that reads it notices by itself.
func user(args []string, stdout, stderr io.Writer) error {
	a, err := parseUser(args)
	if err != nil {
		return usageError{fmt.Errorf("user: %w; %s", err, userUsage)}
	}
	f, err := config.OpenUsers(a.file)
	if err != nil {
		return usageError{err}
	}
	switch a.verb {
	case "list":
		return listUsers(f.Users(), a.asJSON, stdout)
	case "add":
		err = addUser(f, a, stderr)
	case "passwd":
		err = changePassword(f, a, stderr)
	case "remove":
		var there bool
		if there, err = f.Remove(a.source, a.name); err == nil && !there {
			err = a.nobody()
		}
	}
	if err != nil {
		return err
	}
	if err := f.Save(); err != nil {
		return err
	}
	done := map[string]string{"add": "added to", "passwd": "has a new password in", "remove": "removed from"}
	_, err = fmt.Fprintf(stdout, "%s %s %s\n", a.name, done[a.verb], a.file)
	return err
}

func parseUser(args []string) (*userArgs, error) {
	a := &userArgs{}
	if len(args) == 0 || !slices.Contains([]string{"add", "passwd", "remove", "list"}, args[0]) {
		return nil, errors.New("say what to do")
	}
	a.verb, args = args[0], args[1:]
	flags := flag.NewFlagSet("user", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&a.file, "file", "users.toml", "")
	switch a.verb {
	case "list":
		flags.BoolVar(&a.asJSON, "json", false, "")
	case "add":
		flags.StringVar(&a.role, "role", "", "")
		flags.StringVar(&a.tenant, "tenant", "", "")
		flags.StringVar(&a.isolation, "isolation", "", "")
		fallthrough
	case "passwd":
		flags.BoolVar(&a.sha1, "sha1", false, "")
		flags.BoolVar(&a.passwordStdin, "password-stdin", false, "")
		fallthrough
	case "remove":
		flags.StringVar(&a.source, "source", "admin", "")
	}
	var names []string
	for { // flags may stand before and behind the name
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			break
		}
		names, args = append(names, flags.Arg(0)), flags.Args()[1:]
	}
	switch {
	case a.verb == "list" && len(names) > 0:
		return nil, fmt.Errorf("list takes no %q", names[0])
	case a.verb != "list" && len(names) != 1:
		return nil, fmt.Errorf("%s takes one name", a.verb)
	case a.verb == "add" && a.role == "":
		return nil, errors.New(`add needs --role: "application" for all tenants' data, "operator", or "read", "write" or "owner" with --tenant`)
	}
	if len(names) == 1 {
		a.name = names[0]
	}
	return a, nil
}

func (a *userArgs) nobody() error {
	return fmt.Errorf("there is no user %q with source %q in %s; tenantry user list shows who there is", a.name, a.source, a.file)
}

func addUser(f *config.UserFile, a *userArgs, stderr io.Writer) error {
	if f.Find(a.source, a.name) != nil {
		return fmt.Errorf("there is a user %q with source %q already; tenantry user passwd changes the password", a.name, a.source)
	}
	u := config.User{Name: a.name, Source: a.source, Role: a.role, Tenant: a.tenant, Isolation: a.isolation}
	if u.Tenant != "" {
		u.Isolation = cmp.Or(u.Isolation, "rows")
	}
	mechs := []string{config.ScramSHA256}
	if a.sha1 {
		mechs = append(mechs, config.ScramSHA1)
	}
	return putUser(f, a, u, mechs, stderr)
}

func changePassword(f *config.UserFile, a *userArgs, stderr io.Writer) error {
	u := f.Find(a.source, a.name)
	if u == nil {
		return a.nobody()
	}
	var mechs []string
	for _, c := range u.Credentials {
		mechs = append(mechs, c.Mechanism)
	}
	if a.sha1 && !slices.Contains(mechs, config.ScramSHA1) {
		mechs = append(mechs, config.ScramSHA1)
	}
	return putUser(f, a, *u, mechs, stderr)
}

// putUser asks for the password and puts the user with its credentials into the file.
func putUser(f *config.UserFile, a *userArgs, u config.User, mechs []string, stderr io.Writer) error {
	password, err := readPassword(a.passwordStdin, stderr)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(f.Users(), func(o config.User) bool { return o.Name == u.Name && o.Source == u.Source })
	u.Credentials = nil
	for _, mech := range mechs {
		c, err := auth.NewCredential(mech, u.Name, password, others)
		if err != nil {
			return usageError{err}
		}
		u.Credentials = append(u.Credentials, c)
	}
	if err := f.Put(u); err != nil {
		return usageError{err}
	}
	return nil
}

// maxPassword bounds what is read of one.
const maxPassword = 4096

// readPassword asks on a terminal, without showing what is typed, or reads all of the input.
func readPassword(stdin bool, stderr io.Writer) (string, error) {
	if stdin {
		text, err := io.ReadAll(io.LimitReader(os.Stdin, maxPassword+1))
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		if len(text) > maxPassword {
			return "", usageError{fmt.Errorf("the password has more than %d bytes", maxPassword)}
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
	}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return "", usageError{errors.New("there is no terminal to ask for the password; give it to the input with --password-stdin")}
	}
	first, err := prompt(fd, "password: ", stderr)
	if err != nil {
		return "", err
	}
	second, err := prompt(fd, "again: ", stderr)
	if err == nil && first != second {
		err = errors.New("the two passwords differ")
	}
	return first, err
}

func prompt(fd int, text string, stderr io.Writer) (string, error) {
	_, _ = fmt.Fprint(stderr, text)
	typed, err := term.ReadPassword(fd)
	_, _ = fmt.Fprintln(stderr)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(typed), nil
}

// listedUser is a user without its keys.
type listedUser struct {
	Name       string   `json:"name"`
	Source     string   `json:"source"`
	Role       string   `json:"role"`
	Tenant     string   `json:"tenant,omitempty"`
	Isolation  string   `json:"isolation,omitempty"`
	Mechanisms []string `json:"mechanisms"`
}

func listUsers(users []config.User, asJSON bool, stdout io.Writer) error {
	list := []listedUser{}
	for _, u := range users {
		l := listedUser{Name: u.Name, Source: u.Source, Role: u.Role, Tenant: u.Tenant, Isolation: u.Isolation}
		for _, c := range u.Credentials {
			l.Mechanisms = append(l.Mechanisms, c.Mechanism)
		}
		list = append(list, l)
	}
	if asJSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		return out.Encode(list)
	}
	w := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tSOURCE\tROLE\tTENANT\tISOLATION\tMECHANISMS")
	for _, l := range list {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Source, l.Role, cmp.Or(l.Tenant, "-"), cmp.Or(l.Isolation, "-"), strings.Join(l.Mechanisms, ","))
	}
	return w.Flush()
}
