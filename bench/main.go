package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run does what the first argument says: one of the parts, which only the bench itself starts, or
// all experiments.
func run(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "server":
			return listenUntilEOF(newCanned().serve, args[1:]...)
		case "relay":
			return relay(args[1:])
		case "load":
			return runLoad(args[1:], os.Stdout)
		}
	}
	return bench(args)
}

func relay(args []string) error {
	if len(args) == 2 && args[0] == "framing" {
		return listenUntilEOF(relayTo(args[1], framing))
	}
	if len(args) == 2 && args[0] == "copy" {
		return listenUntilEOF(relayTo(args[1], copying))
	}
	return errors.New("usage: bench relay framing|copy ADDRESS")
}

func runLoad(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: bench load JSON")
	}
	var l load
	if err := json.Unmarshal([]byte(args[0]), &l); err != nil {
		return err
	}
	r, err := l.run()
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// report is what the JSON file holds.
type report struct {
	Machine     string
	When        time.Time
	Experiments []*outcome
	Tables      []tableCost
}

func bench(args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	s := settings{}
	flags.StringVar(&s.binary, "tenantry", ".cache/bin/tenantry", "the binary to measure")
	flags.StringVar(&s.before, "before", "", "another build of it, to compare with in the same rounds")
	flags.IntVar(&s.rounds, "rounds", 5, "how often each variant has its turn")
	flags.DurationVar(&s.length, "for", 2*time.Second, "how long a turn counts")
	flags.IntVar(&s.cpu, "cpu", runtime.NumCPU()-1, "the CPU of experiments that are pinned to one")
	only := flags.String("only", "", "regular expression: experiments by name; also \"load\" and \"tables\"")
	dir := flags.String("out", ".cache/bench", "where the JSON and the picture go")
	list := flags.Bool("list", false, "list the experiments and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if *list {
		for _, e := range experiments() {
			fmt.Printf("%-22s %s\n", e.Name, e.Title)
		}
		fmt.Printf("%-22s %s\n%-22s %s\n", "load", "latency against load", "tables", "building and swapping tables")
		return nil
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	return s.all(wanted, *dir)
}

// all runs what is wanted, and writes the table as it goes on.
func (s settings) all(wanted *regexp.Regexp, dir string) error {
	r := report{Machine: describe(), When: time.Now().UTC()}
	fmt.Printf("%s; %d rounds of %v; ratios are medians [least–most] of the rounds\n", r.Machine, s.rounds, s.length)
	if congestion() == "bbr" {
		fmt.Println("BBR paces the connections of all but tenantry, whose own within the machine it leaves unpaced: do not trust what is said of large messages")
	}
	if haproxyPath() == "" {
		fmt.Println("haproxy is not installed and left out")
	}
	for _, e := range experiments() {
		if !wanted.MatchString(e.Name) {
			continue
		}
		o, err := e.run(s)
		if err != nil {
			return err
		}
		o.table(os.Stdout)
		r.Experiments = append(r.Experiments, o)
	}
	if wanted.MatchString("tables") {
		var err error
		if r.Tables, err = tableCosts(s); err != nil {
			return err
		}
		writeTableCosts(os.Stdout, r.Tables)
	}
	if wanted.MatchString("load") {
		list, picture, err := latencyAgainstLoad(s)
		if err != nil {
			return err
		}
		for _, o := range list {
			o.table(os.Stdout)
		}
		r.Experiments = append(r.Experiments, list...)
		if err := writeFile(filepath.Join(dir, "latency.svg"), picture.write); err != nil {
			return err
		}
	}
	if len(r.Experiments) == 0 && len(r.Tables) == 0 {
		return fmt.Errorf("no experiment's name fits -only %s; -list names them", wanted)
	}
	return writeFile(filepath.Join(dir, "bench.json"), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		return e.Encode(r)
	})
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	fmt.Println("\nwritten:", path)
	return nil
}
