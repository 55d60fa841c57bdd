package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// ample is time enough for any history here.
const ample = time.Minute

func put(value, replaced, call, ret int64) operation {
	w := &write{Value: value, Outcome: acked}
	w.Done = &struct {
		Replaced int64 `json:"replaced"`
	}{replaced}
	return operation{Endpoint: "demo", Call: call, Return: ret, Write: w}
}

func failed(outcome string, value, call, ret int64) operation {
	return operation{Endpoint: "demo", Call: call, Return: ret, Write: &write{Value: value, Outcome: outcome}}
}

func get(endpoint, node string, value, call, ret int64) operation {
	shown := [][2]int64{{value, 0}}
	return operation{Client: 9, Endpoint: endpoint, Call: call, Return: ret, Read: &read{Node: node, Shown: shown}}
}

func judged(operations ...operation) report {
	return judge([]*run{{id: "x", operations: operations, ended: true}}, time.Now().Add(ample))
}

func TestHistories(t *testing.T) {
	for name, c := range map[string]struct {
		good bool
		of   []operation
	}{
		"what each node may show": {true, []operation{
			put(1, 0, 10, 50), get("demo-ro", "b", 1, 20, 30), get("demo-ro", "b", 1, 31, 40),
			put(2, 1, 60, 70), get("demo", "a", 2, 80, 90), get("demo-ro", "c", 2, 80, 90),
		}},
		"a write under way that one node shows and the next not yet": {true, []operation{
			put(1, 0, 10, 50), get("demo-ro", "b", 1, 20, 25), get("demo-ro", "c", 0, 30, 40), get("demo", "a", 0, 41, 45),
		}},
		"the same on one node": {false, []operation{
			put(1, 0, 10, 50), get("demo-ro", "b", 1, 20, 25), get("demo-ro", "b", 0, 30, 40),
		}},
		"the same by the Service of the primary, which moved": {false, []operation{
			put(1, 0, 10, 50), get("demo", "a", 1, 20, 25), get("demo", "b", 0, 30, 40),
		}},
		"a stale read": {false, []operation{
			put(1, 0, 10, 20), get("demo", "a", 1, 25, 30), get("demo-ro", "b", 0, 21, 40),
		}},
		"a read that was called when the acknowledgement came": {true, []operation{
			put(1, 0, 10, 20), get("demo-ro", "b", 0, 20, 40),
		}},
		"a lost write that no read shows": {false, []operation{
			put(1, 0, 10, 20), put(2, 0, 30, 40), get("demo", "a", 2, 50, 60),
		}},
		"a lost write, after which all shows what was before": {false, []operation{
			put(1, 0, 10, 20), put(2, 1, 30, 40), get("demo", "a", 1, 50, 60), get("demo-ro", "b", 1, 50, 60),
		}},
		"a node that has another order of writes": {false, []operation{
			put(1, 0, 10, 60), put(2, 1, 10, 60), get("demo-ro", "b", 2, 20, 30), get("demo-ro", "b", 1, 40, 50),
		}},
		"a write of unknown outcome that takes effect much later": {true, []operation{
			failed(unknown, 1, 10, 20), get("demo", "a", 0, 30, 40), put(2, 0, 50, 60), get("demo", "a", 2, 70, 80),
			get("demo-ro", "b", 1, 900, 910), get("demo", "a", 1, 920, 930),
		}},
		"one that never does": {true, []operation{
			failed(unknown, 1, 10, 20), put(2, 0, 50, 60), get("demo", "a", 2, 70, 80), get("demo-ro", "b", 2, 70, 80),
		}},
		"one that only the next write saw": {true, []operation{
			failed(unknown, 1, 10, 20), put(2, 1, 50, 60), get("demo", "a", 2, 70, 80), get("demo-ro", "b", 0, 30, 40),
		}},
		"one that was seen and then is gone": {true, []operation{
			put(1, 0, 1, 5), failed(unknown, 2, 10, 20), get("demo-ro", "b", 2, 30, 40), get("demo-ro", "b", 1, 50, 60),
		}},
		"one that was seen, and the next write found what was before": {true, []operation{
			put(1, 0, 1, 5), failed(unknown, 2, 10, 20), get("demo-ro", "b", 2, 30, 40), put(3, 1, 50, 60),
			get("demo-ro", "b", 3, 70, 80), get("demo", "a", 3, 70, 80),
		}},
		"two of them at once": {true, []operation{
			put(1, 0, 1, 5), failed(unknown, 2, 10, 20), get("demo-ro", "b", 2, 30, 40), failed(unknown, 3, 50, 60),
			get("demo-ro", "b", 3, 70, 80), get("demo-ro", "b", 1, 90, 95),
		}},
		"the later one of two": {true, []operation{
			failed(unknown, 2, 10, 20), get("demo-ro", "b", 2, 30, 40), failed(unknown, 3, 50, 60),
			get("demo-ro", "b", 3, 70, 80), get("demo-ro", "b", 2, 90, 95),
		}},
		"one that was seen, is gone, and is back": {false, []operation{
			failed(unknown, 1, 10, 20), get("demo-ro", "b", 1, 30, 40), get("demo-ro", "b", 0, 50, 60),
			get("demo-ro", "b", 1, 70, 80),
		}},
		"one that is gone by the next write, and is read after that": {false, []operation{
			put(1, 0, 1, 5), failed(unknown, 2, 10, 20), get("demo-ro", "b", 2, 30, 40), put(3, 1, 50, 60),
			get("demo-ro", "b", 2, 70, 80),
		}},
		"one that is gone, and what was acknowledged before with it": {false, []operation{
			put(1, 0, 1, 5), failed(unknown, 2, 10, 20), get("demo-ro", "b", 2, 30, 40), get("demo-ro", "b", 0, 50, 60),
		}},
		"one that an acknowledged write replaced, and both are gone": {false, []operation{
			failed(unknown, 1, 10, 20), get("demo-ro", "b", 1, 30, 40), put(2, 1, 50, 60), get("demo-ro", "b", 0, 70, 80),
		}},
		"one that was lost, beside a stale read": {false, []operation{
			put(1, 0, 1, 5), failed(unknown, 2, 10, 20), get("demo-ro", "b", 2, 30, 40), get("demo-ro", "b", 1, 50, 60),
			put(3, 1, 70, 80), get("demo-ro", "b", 1, 90, 95),
		}},
		"one that was seen before it was sent": {false, []operation{
			get("demo-ro", "b", 1, 1, 5), failed(unknown, 1, 10, 20),
		}},
		"one that was refused, and is seen": {false, []operation{
			failed(refused, 1, 10, 20), put(2, 0, 10, 20), get("demo-ro", "b", 1, 30, 40),
		}},
		"a value that nobody wrote": {false, []operation{
			put(2, 0, 10, 20), get("demo-ro", "b", 7, 30, 40),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if r := judged(c.of...); r.Good != c.good || (len(r.Verdict) == 0) != c.good {
				t.Errorf("good: %v, %q", r.Good, r.Verdict)
			}
		})
	}
}

func TestAStaleReadIsNamed(t *testing.T) {
	r := judged(put(1, 0, 10, 20), put(2, 1, 30, 40), get("demo", "a", 2, 50, 60), get("demo-ro", "b", 1, 51, 61))
	want := "register 0 is not linearizable at node b (run x): 2 of 3 operations can be ordered; then it holds 2, and " +
		"this doesn't fit: a read of 1 by client 9, called at 51 us, returned at 61 us"
	if len(r.Verdict) != 1 || r.Verdict[0] != want {
		t.Errorf("%q", r.Verdict)
	}
	got := r.Registers[0]
	if got.Linearizable || got.Views["node b"] != porcupine.Illegal || got.Views["node a"] != porcupine.Ok {
		t.Errorf("%+v", got)
	}
}

func TestALostWriteThatWasNeverAcknowledgedIsCounted(t *testing.T) {
	seen := []operation{put(1, 0, 1, 5), failed(unknown, 2, 10, 20), get("demo", "b", 2, 30, 40)}
	r := judged(append(seen, get("demo", "b", 1, 50, 60))...)
	// It is gone on the node and at the Service that led there, and is one write all the same.
	if !r.Good || r.LostUnacknowledged != 1 || fmt.Sprint(r.Registers[0].Lost) != "[2]" {
		t.Errorf("%+v", r)
	}
	if r := judged(append(seen, get("demo", "b", 2, 50, 60))...); !r.Good || r.LostUnacknowledged != 0 {
		t.Errorf("%+v", r)
	}
	r = judged(append(seen, get("demo", "b", 0, 50, 60))...)
	want := "3 of 4 operations can be ordered; then it holds 2, and this doesn't fit: a read of 0 by client 9"
	if r.Good || r.LostUnacknowledged != 0 || !strings.Contains(r.Verdict[0], want) {
		t.Errorf("%+v", r)
	}
}

func TestTheReportSaysHowLongWasRecorded(t *testing.T) {
	if r := judged(put(1, 0, 500_000, 700_000), get("demo", "a", 1, 1_000_000, 3_000_000)); r.RecordedSeconds != 2.5 {
		t.Errorf("%+v", r)
	}
}

func TestWhatIsNotKnownOrNotWholeIsNotGood(t *testing.T) {
	good := []operation{put(1, 0, 10, 20), get("demo", "a", 1, 30, 40)}
	late := judge([]*run{{id: "x", operations: good, ended: true}}, time.Now().Add(-time.Second))
	if late.Good || late.Registers[0].Linearizable || !strings.Contains(late.Verdict[0], "not known within the limit") {
		t.Errorf("%+v", late)
	}
	dead := judge([]*run{{id: "x", operations: good}}, time.Now().Add(ample))
	if dead.Good || !strings.Contains(dead.Verdict[0], "has no end") {
		t.Errorf("%+v", dead)
	}
	for _, some := range [][]operation{nil, good[:1], good[1:]} {
		if r := judged(some...); r.Good || !strings.HasPrefix(r.Verdict[len(r.Verdict)-1], "nothing to judge") {
			t.Errorf("%+v", r)
		}
	}
}

func TestManyWritesOfUnknownOutcomeTakeNoLonger(t *testing.T) {
	var all []operation
	at, held := int64(0), int64(0)
	for value := int64(1); value < 600; value += 3 {
		// One that never took effect, one that did after its client had given it up, and one that replaced it.
		all = append(all, failed(unknown, value, at, at+1), failed(unknown, value+1, at, at+1),
			get("demo", "a", held, at+2, at+3), put(value+2, value+1, at+4, at+5))
		held, at = value+2, at+10
	}
	r := judge([]*run{{id: "x", operations: all, ended: true}}, time.Now().Add(ample))
	if !r.Good || r.Seconds > ample.Seconds()/2 || r.Unknown != 400 {
		t.Errorf("%v %q %v %d", r.Good, r.Verdict, r.Seconds, r.Unknown)
	}
}

func TestTheWorkloadsJournalIsJudged(t *testing.T) {
	path := filepath.Join("testdata", "journal")
	var out bytes.Buffer
	good, err := check(path, ample, &out)
	if err != nil || !good {
		t.Fatal(good, err, out.String())
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	// Four writes, one of them of unknown outcome; five snapshots of two registers.
	if r.Operations != 14 || r.Writes != 4 || r.Unknown != 1 || len(r.Registers) != 2 {
		t.Errorf("%s", out.String())
	}
	want := "map[node demo-0:Ok node demo-1:Ok node demo-2:Ok service demo:Ok]"
	if got := fmt.Sprint(r.Registers[0].Views); got != want {
		t.Errorf("%s", got)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(t.TempDir(), "stale")
	changed := strings.Replace(string(text), `"node":"demo-1","shown":[[5,3]`, `"node":"demo-1","shown":[[1,1]`, 1)
	if err := os.WriteFile(stale, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if good, err := check(stale, ample, &out); err != nil || good {
		t.Error("a stale read isn't found", err)
	}
}

func TestWhatIsNoJournalIsRefused(t *testing.T) {
	start := `{"start":{"run":"x","writers":1,"wall_us":1}}` + "\n"
	at := func(what string) string {
		return `{"register":{"client":0,"endpoint":"e","call_us":1,"return_us":2` + what + "}}"
	}
	for _, text := range []string{
		"{", at(""), start + at(""), start + strings.Replace(at(`,"read":{}`), `"return_us":2`, `"return_us":0`, 1),
		start + at(`,"write":{"register":0,"value":1,"outcome":"acked"}`),
		start + at(`,"write":{"register":0,"value":0,"outcome":"unknown"}`),
		start + at(`,"write":{"register":0,"value":1,"outcome":"perhaps"}`),
		at(`,"read":{"node":"a","shown":[[0,0]]}`),
	} {
		if runs, err := journal(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %v", text, runs)
		}
	}
	if _, err := check("nowhere", ample, &bytes.Buffer{}); err == nil {
		t.Error("a file that isn't there is judged")
	}
}
