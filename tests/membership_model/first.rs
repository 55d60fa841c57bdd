//! Where the model begins.
use crate::state::{Known, List, NODES, OLD, Primary, Rec, Standby, State};
use crate::world::World;

impl World {
    /// The world at first: a pool that works, with nothing under way.
    pub fn first(&self) -> State {
        let mut attached = [0; NODES];
        attached[..self.attached].fill(1);
        let api = Rec { epoch: 1, attached };
        let mut wished = [false; NODES];
        wished[..self.nodes].fill(true);
        let mut state = State {
            api,
            writes: Vec::new(),
            primary: self.primary(api),
            standbys: (0..NODES).map(|k| standby(api, k < self.nodes)).collect(),
            wished,
            acknowledged: 0,
            left: self.left,
            illegal: false,
        };
        for k in self.others() {
            self.connect(&mut state, k);
            let said = Self::say(&mut state, k);
            let counted = Some(0).filter(|_| k < self.attached || !self.leases);
            state.primary.known[k] = Known { said: Some(said), counted, granted: None };
        }
        state
    }

    fn primary(&self, record: Rec) -> Primary {
        let mut primary = Primary {
            up: true,
            open: true,
            wal: Vec::new(),
            shown: 0,
            list: List::default(),
            flag: self.attached > 1,
            gate_seen: self.attached > 1,
            record,
            must_read: false,
            read_since_start: true,
            start: Some(1),
            waiting: 0,
            growth: None,
            tables: [None; NODES],
            started: OLD,
            senders: [None; NODES],
            known: Default::default(),
        };
        primary.push_row();
        for k in (1..self.attached).rev() {
            primary.list.names.push((u8::try_from(k).expect("few nodes"), 1, 1));
        }
        primary
    }
}

fn standby(api: Rec, up: bool) -> Standby {
    Standby {
        up,
        running: up,
        copy: 1,
        received: 1,
        applied: 1,
        boot: 1,
        record: api,
        open: false,
        sessions: false,
        word: None,
        target: None,
        caught_up: false,
        rest: 0,
        front: 0,
        beat: None,
        late: None,
    }
}
