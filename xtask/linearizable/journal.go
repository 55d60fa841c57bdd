package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// An operation is one line of the journal (workload/src/registers/mod.rs). Its times are microseconds of
// one monotonic clock.
type operation struct {
	Client   int    `json:"client"`
	Endpoint string `json:"endpoint"`
	Call     int64  `json:"call_us"`
	Return   int64  `json:"return_us"`
	Write    *write `json:"write"`
	Read     *read  `json:"read"`
}

// Outcomes of a write.
const (
	acked   = "acked"
	refused = "refused"
	unknown = "unknown"
)

// A write put a value that no other write has into one register.
type write struct {
	Register int    `json:"register"`
	Value    int64  `json:"value"`
	Outcome  string `json:"outcome"`
	// Done is there when the write was acknowledged.
	Done *struct {
		// Replaced is the value that the register had before.
		Replaced int64 `json:"replaced"`
	} `json:"done"`
}

// A read showed the value and the version of each register.
type read struct {
	Node  string     `json:"node"`
	Shown [][2]int64 `json:"shown"`
}

// A run is one life of the workload, in which registers begin at zero.
type run struct {
	id         string
	operations []operation
	ended      bool
}

// journal reads the runs that recorded operations on registers; other lines are passed over.
func journal(from io.Reader) ([]*run, error) {
	var runs []*run
	var current *run
	reader := bufio.NewReaderSize(from, 1<<16)
	for number := 1; ; number++ {
		text, err := reader.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			var line struct {
				Start *struct {
					Run string `json:"run"`
				} `json:"start"`
				Register *operation      `json:"register"`
				End      json.RawMessage `json:"end"`
			}
			if err := json.Unmarshal(text, &line); err != nil {
				return nil, fmt.Errorf("line %d: %w", number, err)
			}
			switch {
			case line.Start != nil:
				current = &run{id: line.Start.Run}
				runs = append(runs, current)
			case line.Register != nil && current == nil:
				return nil, fmt.Errorf("line %d stands outside of any run", number)
			case line.Register != nil:
				if err := line.Register.check(); err != nil {
					return nil, fmt.Errorf("line %d: %w", number, err)
				}
				current.operations = append(current.operations, *line.Register)
			case line.End != nil && current != nil:
				current.ended = true
			}
		}
		if err != nil {
			return recorded(runs), nil
		}
	}
}

// check refuses what would be judged wrongly.
func (o operation) check() error {
	switch {
	case (o.Write == nil) == (o.Read == nil):
		return errors.New("an operation is a write or a read")
	case o.Return < o.Call:
		return errors.New("the operation returned before it was called")
	case o.Read != nil:
		return nil
	case o.Write.Value == 0:
		return errors.New("zero is what a register holds before the first write")
	case o.Write.Outcome == acked && o.Write.Done == nil:
		return errors.New("an acknowledged write tells what it replaced")
	case o.Write.Outcome != acked && o.Write.Outcome != refused && o.Write.Outcome != unknown:
		return fmt.Errorf("outcome %q", o.Write.Outcome)
	}
	return nil
}

func recorded(runs []*run) []*run {
	var found []*run
	for _, r := range runs {
		if len(r.operations) > 0 {
			found = append(found, r)
		}
	}
	return found
}
