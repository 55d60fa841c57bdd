// Command linearizable asks porcupine, a checker that isn't ours, whether the registers in a journal of
// pgpool-workload were linearizable. It prints what it found as JSON. Exit status: 0 linearizable, 1 not, or not
// known within the limit, or nothing to judge; 2 wrong usage, or no journal.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("linearizable: ")
	limit := flag.Duration("limit", 2*time.Minute, "longest time to search for an order of the operations")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: linearizable [-limit 2m] JOURNAL")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 || *limit <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	good, err := check(flag.Arg(0), *limit, os.Stdout)
	if err != nil {
		log.Print(err)
		os.Exit(2)
	}
	if !good {
		os.Exit(1)
	}
}

// check judges the journal at path and prints the report; true if all of it is linearizable.
func check(path string, limit time.Duration, out io.Writer) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	runs, err := journal(file)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	report := judge(runs, time.Now().Add(limit))
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return report.Good, encoder.Encode(report)
}
