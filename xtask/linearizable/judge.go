package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// A report is what the program prints.
type report struct {
	Good bool `json:"good"`
	// Verdict says what isn't good, one line each.
	Verdict []string `json:"verdict"`
	// Operations counts writes, and reads of each register; a read that is in two views counts once.
	Operations int `json:"operations"`
	Writes     int `json:"writes"`
	Reads      int `json:"reads"`
	// Unknown counts the writes of unknown outcome among Writes.
	Unknown   int              `json:"unknown"`
	Registers []registerReport `json:"registers"`
	Seconds   float64          `json:"seconds"`
}

// A registerReport is the verdict on one register of a run.
type registerReport struct {
	Run          string `json:"run"`
	Register     int    `json:"register"`
	Linearizable bool   `json:"linearizable"`
	// Views gives porcupine's word on each place that it was read from.
	Views map[string]porcupine.CheckResult `json:"views"`
}

// judge asks porcupine about one view after the other, so that memory is needed for one alone. What isn't known by the
// deadline isn't good.
func judge(runs []*run, deadline time.Time) report {
	begun := time.Now()
	r := report{Verdict: []string{}, Registers: []registerReport{}}
	for _, run := range runs {
		r.count(run)
		if !run.ended {
			r.say("run %s has no end: an operation of each client may be missing", run.id)
		}
		for _, v := range views(run) {
			result := ask(v, time.Until(deadline))
			r.add(v, result)
			switch result {
			case porcupine.Illegal:
				r.say("register %d is not linearizable at %s (run %s): %s", v.register, v.place, v.run, explain(v))
			case porcupine.Unknown:
				r.say("register %d at %s (run %s): not known within the limit", v.register, v.place, v.run)
			}
		}
	}
	if r.Writes == 0 || r.Reads == 0 {
		r.say("nothing to judge: %d writes and %d reads", r.Writes, r.Reads)
	}
	r.Good = len(r.Verdict) == 0
	r.Seconds = time.Since(begun).Seconds()
	return r
}

func ask(v view, left time.Duration) porcupine.CheckResult {
	// Porcupine takes zero for no limit.
	if left <= 0 {
		return porcupine.Unknown
	}
	return porcupine.CheckOperationsTimeout(model, v.history, left)
}

func (r *report) say(format string, args ...any) {
	r.Verdict = append(r.Verdict, fmt.Sprintf(format, args...))
}

func (r *report) count(run *run) {
	for _, o := range run.operations {
		switch {
		case o.Read != nil:
			r.Reads += len(o.Read.Shown)
		case o.Write.Outcome != refused:
			r.Writes++
			if o.Write.Outcome == unknown {
				r.Unknown++
			}
		}
	}
	r.Operations = r.Writes + r.Reads
}

// add takes the result of a view; those of one register follow each other.
func (r *report) add(v view, result porcupine.CheckResult) {
	last := len(r.Registers) - 1
	if last < 0 || r.Registers[last].Run != v.run || r.Registers[last].Register != v.register {
		r.Registers = append(r.Registers, registerReport{
			Run: v.run, Register: v.register, Linearizable: true,
			Views: map[string]porcupine.CheckResult{},
		})
		last++
	}
	r.Registers[last].Views[v.place] = result
	r.Registers[last].Linearizable = r.Registers[last].Linearizable && result == porcupine.Ok
}

// explaining is the longest time to look for an explanation.
const explaining = 10 * time.Second

// explain names the operation that fits nowhere after the longest order that porcupine finds.
func explain(v view) string {
	_, info := porcupine.CheckOperationsVerbose(model, v.history, explaining)
	var longest []int
	for _, order := range info.PartialLinearizations()[0] {
		if len(order) > len(longest) {
			longest = order
		}
	}
	placed := map[int]bool{}
	held := "0"
	for _, id := range longest {
		placed[id] = true
		if o := v.history[id]; o.Input.(input).write {
			held = fmt.Sprint(o.Input.(input).value)
			if !o.Output.(output).known {
				held += " (whose write was not acknowledged: docs/limits.md says when such a one may be lost)"
			}
		}
	}
	var rest []porcupine.Operation
	for id, o := range v.history {
		if !placed[id] {
			rest = append(rest, o)
		}
	}
	if len(rest) == 0 {
		return "no explanation was found in time"
	}
	first := slices.MinFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	return fmt.Sprintf("%d of %d operations can be ordered; then it holds %s, and this doesn't fit: %s",
		len(longest), len(v.history), held, describe(first))
}

func describe(o porcupine.Operation) string {
	in, out := o.Input.(input), o.Output.(output)
	what := fmt.Sprintf("a read of %d", out.value)
	switch {
	case in.write && out.known:
		what = fmt.Sprintf("a write of %d that replaced %d", in.value, out.value)
	case in.write:
		what = fmt.Sprintf("a write of %d of unknown outcome", in.value)
	}
	return fmt.Sprintf("%s by client %d, called at %d us, returned at %d us", what, o.ClientId, o.Call, o.Return)
}
