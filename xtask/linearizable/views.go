package main

import (
	"cmp"
	"slices"

	"github.com/anishathalye/porcupine"
)

// A view is all that is known of one register, seen from one place: every write, and the reads of that place.
//
// An attached node shows a commit before it is acknowledged, at a moment of its own. So a read on one
// node and the next on another may show a write, and then not yet: over all nodes together a register is not
// linearizable, and isn't promised to be. What is promised, and what a view is:
//   - each node by itself, whichever Service led to it;
//   - the Service of the primary, whichever node it led to.
//
// Since an acknowledged write tells what it replaced, all views have one order of writes.
type view struct {
	run      string
	register int
	place    string
	history  []porcupine.Operation
}

// input is a write or a read; output is what it showed: what a write replaced, or what a read found.
type input struct {
	write bool
	value int64
	// losable marks a write that may be undone later, and never comes back.
	losable bool
}

type output struct {
	known bool
	value int64
}

// model is a register: it holds one value, zero at first. Its state is that value, and below it those that it may fall
// back to: more than the value alone only after writes that may be lost. Since no two writes have one value, an operation
// that shows a value from below tells that all above it is lost.
var model = porcupine.Model{
	Init: func() any { return []int64{0} },
	Step: func(state, in, out any) (bool, any) {
		held, i, o := state.([]int64), in.(input), out.(output)
		if o.known {
			at := slices.Index(held, o.value)
			if at < 0 {
				return false, state
			}
			held = held[:at+1]
		}
		switch {
		case i.write && i.losable:
			return true, append(slices.Clip(held), i.value)
		case i.write:
			return true, []int64{i.value}
		default:
			return true, held
		}
	},
	Equal: func(one, other any) bool { return slices.Equal(one.([]int64), other.([]int64)) },
}

// losing gives the same view with leave to lose what may be lost: a commit that a standby showed before it was
// acknowledged is gone if every node that showed it is lost in that moment (docs/limits.md). Nobody was told that it
// counts, so its outcome is unknown. If an acknowledged write replaced its value it was still there, and stays. False if
// there is no such write.
func (v view) losing() (view, bool) {
	replaced := map[int64]bool{}
	for _, o := range v.history {
		if out := o.Output.(output); o.Input.(input).write && out.known {
			replaced[out.value] = true
		}
	}
	some := false
	history := slices.Clone(v.history)
	for id, o := range history {
		in := o.Input.(input)
		if in.write && !o.Output.(output).known && !replaced[in.value] {
			in.losable, some = true, true
			history[id].Input = in
		}
	}
	v.history = history
	return v, some
}

// lost gives the values that are gone if the operations took effect in this order: those that had surely been there when
// the operation was called that tells so. Of operations that were under way together the order may be another.
func (v view) lost(order []int) []int64 {
	seen := map[int64]int64{}
	for _, o := range v.history {
		if in := o.Input.(input); in.losable {
			seen[in.value] = o.Return
		}
	}
	var gone []int64
	state := model.Init()
	for _, id := range order {
		o := v.history[id]
		if out := o.Output.(output); out.known {
			held := state.([]int64)
			for _, value := range held[slices.Index(held, out.value)+1:] {
				if seen[value] < o.Call {
					gone = append(gone, value)
				}
			}
		}
		_, state = model.Step(state, o.Input, o.Output)
	}
	return gone
}

// views gives every view of a run, in a fixed order.
func views(r *run) []view {
	registers := 0
	service := map[string]bool{}
	for _, o := range r.operations {
		if o.Write != nil {
			registers = max(registers, o.Write.Register+1)
			service[o.Endpoint] = true
		} else {
			registers = max(registers, len(o.Read.Shown))
		}
	}
	places := map[string][]operation{}
	for _, o := range r.operations {
		if o.Read == nil {
			continue
		}
		node := "node " + o.Read.Node
		places[node] = append(places[node], o)
		if service[o.Endpoint] {
			primary := "service " + o.Endpoint
			places[primary] = append(places[primary], o)
		}
	}
	writes := make([][]operation, registers)
	for _, o := range r.operations {
		if o.Write != nil && o.Write.Outcome != refused {
			writes[o.Write.Register] = append(writes[o.Write.Register], o)
		}
	}
	var found []view
	for place, reads := range places {
		for register := range registers {
			found = append(found, view{
				run: r.id, register: register, place: place,
				history: history(register, writes[register], reads),
			})
		}
	}
	slices.SortFunc(found, func(a, b view) int {
		return cmp.Or(cmp.Compare(a.register, b.register), cmp.Compare(a.place, b.place))
	})
	return found
}

// history is what porcupine judges.
//
// A write of unknown outcome may take effect at any time after its call, or never. Left open, each
// would double the ways to order the rest. As values are unique there is no need: a value that nobody saw is
// as good as never written, and one that was seen was written by the time its first witness returned.
func history(register int, writes, reads []operation) []porcupine.Operation {
	witness := map[int64]int64{}
	saw := func(value, at int64) {
		if first, seen := witness[value]; !seen || at < first {
			witness[value] = at
		}
	}
	var all []porcupine.Operation
	for _, o := range reads {
		if register >= len(o.Read.Shown) {
			continue
		}
		value := o.Read.Shown[register][0]
		saw(value, o.Return)
		all = append(all, porcupine.Operation{
			ClientId: o.Client, Call: o.Call, Return: o.Return,
			Input: input{}, Output: output{known: true, value: value},
		})
	}
	for _, o := range writes {
		if o.Write.Outcome == acked {
			saw(o.Write.Done.Replaced, o.Return)
		}
	}
	for _, o := range writes {
		out, end := output{}, o.Return
		if o.Write.Outcome == acked {
			out = output{known: true, value: o.Write.Done.Replaced}
		} else {
			first, seen := witness[o.Write.Value]
			if !seen {
				continue
			}
			// A witness before the call is one of a write that wasn't made yet, which porcupine finds.
			end = max(first, o.Call)
		}
		all = append(all, porcupine.Operation{
			ClientId: o.Client, Call: o.Call, Return: end,
			Input: input{write: true, value: o.Write.Value}, Output: out,
		})
	}
	return all
}
