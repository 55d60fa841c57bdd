package main

import (
	"cmp"
	"fmt"
	"math"
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
	Unknown int `json:"unknown"`
	// LostUnacknowledged counts those that were shown and then were gone, as docs/limits.md allows.
	LostUnacknowledged int              `json:"lost_unacknowledged"`
	Registers          []registerReport `json:"registers"`
	// RecordedSeconds is the time from the first call to the last return, of all runs together.
	RecordedSeconds float64 `json:"recorded_seconds"`
	// Seconds is how long it took to judge.
	Seconds float64 `json:"seconds"`
}

// A registerReport is the verdict on one register of a run.
type registerReport struct {
	Run      string `json:"run"`
	Register int    `json:"register"`
	// Linearizable doesn't count what was lost before it was acknowledged.
	Linearizable bool `json:"linearizable"`
	// Lost are the values of such writes.
	Lost []int64 `json:"lost,omitempty"`
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
			judged, result, lost := ask(v, deadline)
			r.add(v, result, lost)
			switch result {
			case porcupine.Illegal:
				r.say("register %d is not linearizable at %s (run %s): %s", v.register, v.place, v.run, explain(judged))
			case porcupine.Unknown:
				r.say("register %d at %s (run %s): not known within the limit", v.register, v.place, v.run)
			}
		}
	}
	for _, register := range r.Registers {
		r.LostUnacknowledged += len(register.Lost)
	}
	if r.Writes == 0 || r.Reads == 0 {
		r.say("nothing to judge: %d writes and %d reads", r.Writes, r.Reads)
	}
	r.Good = len(r.Verdict) == 0
	r.Seconds = time.Since(begun).Seconds()
	return r
}

// ask gives porcupine's word on a view, and the values that were lost. What isn't linearizable is looked at once more with
// leave to lose what may be lost; then the view comes back so.
func ask(v view, deadline time.Time) (view, porcupine.CheckResult, []int64) {
	left := time.Until(deadline)
	// Porcupine takes zero for no limit.
	if left <= 0 {
		return v, porcupine.Unknown, nil
	}
	if result := porcupine.CheckOperationsTimeout(model, v.history, left); result != porcupine.Illegal {
		return v, result, nil
	}
	again, some := v.losing()
	if !some {
		return v, porcupine.Illegal, nil
	}
	if left = time.Until(deadline); left <= 0 {
		return again, porcupine.Unknown, nil
	}
	result, info := porcupine.CheckOperationsVerbose(model, again.history, left)
	if result != porcupine.Ok {
		return again, result, nil
	}
	return again, result, again.lost(longest(info))
}

func (r *report) say(format string, args ...any) {
	r.Verdict = append(r.Verdict, fmt.Sprintf(format, args...))
}

func (r *report) count(run *run) {
	first, last := int64(math.MaxInt64), int64(0)
	for _, o := range run.operations {
		first, last = min(first, o.Call), max(last, o.Return)
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
	if len(run.operations) > 0 {
		r.RecordedSeconds += float64(last-first) / 1e6
	}
}

// add takes the result of a view; those of one register follow each other.
func (r *report) add(v view, result porcupine.CheckResult, lost []int64) {
	last := len(r.Registers) - 1
	if last < 0 || r.Registers[last].Run != v.run || r.Registers[last].Register != v.register {
		r.Registers = append(r.Registers, registerReport{
			Run: v.run, Register: v.register, Linearizable: true,
			Views: map[string]porcupine.CheckResult{},
		})
		last++
	}
	register := &r.Registers[last]
	register.Views[v.place] = result
	register.Linearizable = register.Linearizable && result == porcupine.Ok
	// Several places may have lost the same.
	register.Lost = append(register.Lost, lost...)
	slices.Sort(register.Lost)
	register.Lost = slices.Compact(register.Lost)
}

// explaining is the longest time to look for an explanation.
const explaining = 10 * time.Second

// longest is the longest order that porcupine found.
func longest(info porcupine.LinearizationInfo) []int {
	var longest []int
	for _, order := range info.PartialLinearizations()[0] {
		if len(order) > len(longest) {
			longest = order
		}
	}
	return longest
}

// explain names the operation that fits nowhere after the longest order that porcupine finds.
func explain(v view) string {
	_, info := porcupine.CheckOperationsVerbose(model, v.history, explaining)
	order := longest(info)
	placed := map[int]bool{}
	state := model.Init()
	for _, id := range order {
		placed[id] = true
		_, state = model.Step(state, v.history[id].Input, v.history[id].Output)
	}
	held := state.([]int64)
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
	return fmt.Sprintf("%d of %d operations can be ordered; then it holds %d, and this doesn't fit: %s",
		len(order), len(v.history), held[len(held)-1], describe(first))
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
