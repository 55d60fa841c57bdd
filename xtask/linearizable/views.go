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
}

type output struct {
	known bool
	value int64
}

// model is a register: it holds one value, zero at first.
var model = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, in, out any) (bool, any) {
		i, o := in.(input), out.(output)
		if o.known && o.value != state.(int64) {
			return false, state
		}
		if i.write {
			return true, i.value
		}
		return true, state
	},
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
