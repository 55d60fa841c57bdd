package main

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"testing"
	"time"
)

// A pool as it should be: three nodes that show a write at moments of their own, the primary last, and all of
// them before it is acknowledged.
type pool struct {
	rng *rand.Rand
	// gap is the longest pause between two writes of a register.
	gap        int64
	operations []operation
	// shows is what each node shows of each register, and since when.
	shows [3][][]since
}

type since struct{ at, value int64 }

func newPool(seed uint64, registers int, gap int64) *pool {
	p := &pool{rng: rand.New(rand.NewPCG(seed, 1)), gap: gap}
	for node := range p.shows {
		p.shows[node] = make([][]since, registers)
		for register := range registers {
			p.shows[node][register] = []since{{}}
		}
	}
	return p
}

// upTo is a random time.
func (p *pool) upTo(most int64) int64 { return p.rng.Int64N(most + 1) }

// write fills a register with writes until the end; lost says which share of answers gets lost. Writes of one row wait for
// each other, so each begins to take effect when the one before is acknowledged.
func (p *pool) write(register int, value *int64, end int64, lost float64) {
	held := int64(0)
	for at := p.upTo(1000); at < end; {
		*value++
		call := at - p.upTo(2000)
		ack := at + 200 + p.upTo(3000)
		if p.rng.Float64() < lost {
			w := failed(unknown, *value, call, call+p.upTo(ack-call))
			w.Write.Register = register
			p.operations = append(p.operations, w)
			if p.upTo(1) == 0 {
				continue
			}
		} else {
			w := put(*value, held, call, ack+p.upTo(500))
			w.Write.Register = register
			p.operations = append(p.operations, w)
		}
		for node := range p.shows {
			shown := at + p.upTo(ack-at)
			if node == 0 {
				shown = ack
			}
			p.shows[node][register] = append(p.shows[node][register], since{shown, *value})
		}
		held = *value
		at = ack + p.upTo(p.gap)
	}
}

// read takes a snapshot of a node; all of them by demo-ro, some of the primary by demo.
func (p *pool) read(node int, at int64) {
	o := operation{Client: 5 + node, Endpoint: "demo-ro", Call: at - p.upTo(800), Return: at + p.upTo(800)}
	if node == 0 && p.upTo(1) == 0 {
		o.Endpoint = "demo"
	}
	o.Read = &read{Node: fmt.Sprintf("demo-%d", node)}
	for _, shows := range p.shows[node] {
		next := sort.Search(len(shows), func(i int) bool { return shows[i].at > at })
		o.Read.Shown = append(o.Read.Shown, [2]int64{shows[next-1].value, 0})
	}
	p.operations = append(p.operations, o)
}

// small is a history of writes and reads close together, some of whose answers get lost.
func small(seed uint64) *pool { return played(seed, 2, 60, 100_000, 2000, 0.2) }

func played(seed uint64, registers, reads int, end, gap int64, lost float64) *pool {
	p := newPool(seed, registers, gap)
	value := int64(0)
	for register := range registers {
		p.write(register, &value, end, lost)
	}
	for range reads {
		p.read(int(p.upTo(2)), p.upTo(end))
	}
	return p
}

func TestAPoolAsItShouldBeIsLinearizable(t *testing.T) {
	for seed := range uint64(60) {
		p := small(seed)
		if r := judged(p.operations...); !r.Good {
			t.Fatalf("seed %d: %q", seed, r.Verdict)
		}
	}
}

// spoil makes one read stale: it shows what the last write replaced that was acknowledged before the read was called.
func (p *pool) spoil() bool {
	for _, i := range p.rng.Perm(len(p.operations)) {
		r := p.operations[i]
		if r.Read == nil {
			continue
		}
		register := int(p.upTo(int64(len(r.Read.Shown) - 1)))
		var last *operation
		for j, w := range p.operations {
			mine := w.Write != nil && w.Write.Register == register && w.Write.Outcome == acked && w.Return < r.Call
			if mine && (last == nil || w.Return > last.Return) {
				last = &p.operations[j]
			}
		}
		if last != nil {
			r.Read.Shown[register][0] = last.Write.Done.Replaced
			return true
		}
	}
	return false
}

func TestAnyReadThatIsMadeStaleIsFound(t *testing.T) {
	for seed := range uint64(60) {
		p := small(seed)
		if !p.spoil() {
			t.Fatalf("seed %d has no read to spoil", seed)
		}
		if r := judged(p.operations...); r.Good {
			t.Fatalf("seed %d: not found", seed)
		}
	}
}

// lose ends the history with a write that a standby shows, and that is gone before anybody is told that it counts.
func (p *pool) lose() {
	now, value := int64(0), int64(0)
	for _, o := range p.operations {
		now = max(now, o.Return)
		if o.Write != nil {
			value = max(value, o.Write.Value)
		}
	}
	shows := p.shows[1][0]
	before := shows[len(shows)-1].value
	// The write is sent after the first read.
	p.operations = append(p.operations, failed(unknown, value+1, now+3, now+4))
	for _, shown := range []int64{before, value + 1, before} {
		p.read(1, now+10_000)
		last := &p.operations[len(p.operations)-1]
		last.Call, last.Return, last.Read.Shown[0][0] = now+1, now+2, shown
		now += 10
	}
}

func TestAWriteThatIsLostBeforeItIsAcknowledgedIsNoFault(t *testing.T) {
	for seed := range uint64(60) {
		p := small(seed)
		p.lose()
		if r := judged(p.operations...); !r.Good || r.LostUnacknowledged != 1 {
			t.Fatalf("seed %d: %d lost, %q", seed, r.LostUnacknowledged, r.Verdict)
		}
		if p.spoil(); judged(p.operations...).Good {
			t.Fatalf("seed %d: the stale read isn't found", seed)
		}
	}
}

func TestAnyAcknowledgedWriteThatIsUndoneIsFound(t *testing.T) {
	for seed := range uint64(60) {
		p := played(seed, 1, 60, 100_000, 2000, 0)
		undone := p.upTo(5)
		// The write after it finds the value from before.
		p.operations[undone+1].Write.Done.Replaced = p.operations[undone].Write.Done.Replaced
		if r := judged(p.operations...); r.Good {
			t.Fatalf("seed %d: not found", seed)
		}
	}
}

func TestAHistoryOfTheClusterTestIsJudgedInTime(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	// Eight registers for 25 minutes, by four writers and four readers at a beat of 200 ms.
	p := played(1, 8, 30_000, 1_500_000_000, 800_000, 0.01)
	writes := 0
	for _, o := range p.operations {
		if o.Write != nil {
			writes++
		}
	}
	begun := time.Now()
	r := judged(p.operations...)
	t.Logf("%d writes, %d operations: %v", writes, r.Operations, time.Since(begun))
	if !r.Good {
		t.Errorf("%q", r.Verdict)
	}
}
