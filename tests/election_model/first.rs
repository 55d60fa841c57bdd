//! Where the model begins.
use crate::state::{ANSWERS, Entry, Lease, NODES, Node, Office, Rec, State, Wal, What};
use crate::world::World;

impl World {
    /// The world at first: a pool that works, with nothing under way; then the script.
    pub fn first(&self) -> State {
        let mut attached = [0; NODES];
        attached[..self.attached].fill(1);
        let api = Rec {
            epoch: 1,
            electing: false,
            primary: 0,
            attached,
            timeline: 1,
            fork: 0,
            successor: None,
            stopped: false,
        };
        let mut wished = [false; NODES];
        wished[..self.nodes].fill(true);
        let mut state = State {
            api,
            nodes: std::array::from_fn(|i| node(api, i, i < self.nodes)),
            wished,
            acknowledged: 0,
            left: self.left,
            steps: 0,
            illegal: false,
        };
        for k in 1..self.attached {
            state.nodes[0].names[k] = (1, 1);
        }
        for k in 1..self.nodes {
            state.nodes[0].office.senders[k] = Some((1, 1));
        }
        // Twice: the first answer brings the stamp that the second beat echoes.
        for k in (1..self.nodes).chain(1..self.nodes).filter(|_| self.leases) {
            let note = self.send(&mut state, 0, k);
            self.arrive(&mut state, 0, k, note, true);
        }
        let last = state.clone();
        state.nodes.iter_mut().for_each(|n| n.must_read = true);
        self.settle(&mut state, &last);
        state.nodes.iter_mut().for_each(|n| n.must_read = false);
        self.play(state)
    }

    /// Takes the steps of the script: each has to be possible.
    fn play(&self, mut state: State) -> State {
        for (at, step) in self.script.iter().enumerate() {
            let mut steps = Vec::new();
            self.enabled(&state, &mut steps);
            assert!(steps.contains(step), "step {at} of the script, {step:?}, is not possible: {steps:?}");
            state = self.after(&state, *step).unwrap_or_else(|| panic!("{step:?} leads nowhere"));
        }
        state
    }
}

fn node(api: Rec, i: usize, exists: bool) -> Node {
    let mut wal = Wal::EMPTY;
    wal.push(Entry { timeline: 1, what: What::Row(1) });
    let primary = i == 0;
    let office = Office { start: Some(1), read_since_start: true, ..Office::NONE };
    Node {
        up: exists,
        running: exists,
        primary,
        copy: 1,
        wal,
        applied: 1,
        upstream: (exists && !primary).then_some(0),
        view: api,
        must_read: false,
        names: [(0, 0); NODES],
        open: primary,
        sessions: primary,
        boot: 1,
        word: None,
        ended: false,
        opened: u8::from(primary),
        answers: [None; ANSWERS],
        begun: None,
        owed: (None, None),
        vote: None,
        write: None,
        office: if primary { office } else { Office::NONE },
        lease: Lease::default(),
        front: 0,
        beats: [None; NODES],
    }
}
