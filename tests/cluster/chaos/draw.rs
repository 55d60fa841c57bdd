//! What is broken, in which order and for how long: all of it follows from the seed, so that a run can be had again.
//!
//! Kinds are dealt from a shuffled deck: a short run meets nearly every kind once, and a long one each about equally
//! often. Whom a fault hits is drawn by role, and the world says at that moment who has it.
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

/// A process that may be killed or frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// PostgreSQL on a node.
    Postgres,
    /// The agent of a node, and with it all of its container.
    Agent,
    /// A front.
    Front,
    /// The operator.
    Operator,
}

/// A pod that may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pod {
    /// That of a node.
    Node,
    /// A front.
    Front,
    /// The operator.
    Operator,
}

/// What may happen to the machine of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// It has no power.
    Killed,
    /// It has no network.
    Cut,
    /// Nothing that it sends arrives.
    Mute,
    /// Nothing arrives there.
    Deaf,
    /// It and another one do not see each other.
    Parted,
    /// It and the API server do not see each other.
    WithoutApi,
    /// What it sends arrives late.
    Delayed,
    /// Some of what it sends is lost.
    Lossy,
    /// It has no kubelet.
    KubeletKilled,
    /// It has no containerd.
    ContainerdKilled,
}

/// What may happen to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Its claim is deleted, and its data with it.
    Lost,
    /// That of a standby has no room left.
    StandbyFull,
    /// That of the primary has no room left.
    PrimaryFull,
}

/// A part of Kubernetes that may be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The API server.
    ApiServer,
    /// Its database.
    Etcd,
}

/// What people may want in the middle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A node less, and one more again.
    Scale,
    /// Another primary.
    Switchover,
    /// Every pod anew, one at a time.
    Restart,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process is killed.
    Killed(Process),
    /// All processes of a pod are stopped in their tracks, or of a node those of PostgreSQL alone, and go on later.
    Frozen(Process),
    /// A pod is deleted, with its grace.
    Deleted(Pod),
    /// A pod is deleted without grace.
    Forced(Pod),
    /// Something happens to a machine.
    Machine(Harm),
    /// A part of Kubernetes is stopped.
    Stopped(Service),
    /// Something happens to a volume.
    Volume(Loss),
    /// Something is changed.
    Changed(Change),
}

/// Who has which part in the pool at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The primary.
    Primary,
    /// One of its two standbys.
    First,
    /// The other one.
    Second,
}

/// What a fault is about; two of one round are about different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// A node of the pool, or its machine.
    Node(Role),
    /// The fronts.
    Fronts,
    /// The operator.
    Operator,
    /// The API server.
    Api,
    /// What people want of the pool.
    Spec,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// The nodes, or their machines, that it is about; none where it isn't about nodes.
    pub roles: Vec<Role>,
    /// How bad it is: milliseconds of delay, percent of frames that are lost; or which front of those that there are.
    pub grade: u16,
    /// How long it lasts before it is undone; zero where nothing is undone.
    pub lasts: Duration,
}

/// Faults at once, after which the pool has to become whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// One, or two.
    pub faults: Vec<Fault>,
    /// How much later the second one begins.
    pub apart: Duration,
}

/// Shortest and longest time of a fault, in milliseconds.
pub const LASTS: (u64, u64) = (2_000, 25_000);
/// Longest time between the beginnings of two faults of a round, in milliseconds.
pub const APART: u64 = 3_000;
/// One round of so many is of two faults.
const PAIRS: u32 = 3;

/// Any node; half of the faults are the primary's.
const ANY: &[Role] = &[Role::Primary, Role::Primary, Role::First, Role::Second];
const STANDBYS: &[Role] = &[Role::First, Role::Second];
const PRIMARY: &[Role] = &[Role::Primary];

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 32] = [
        Self::Killed(Process::Postgres),
        Self::Killed(Process::Agent),
        Self::Killed(Process::Front),
        Self::Killed(Process::Operator),
        Self::Frozen(Process::Postgres),
        Self::Frozen(Process::Agent),
        Self::Frozen(Process::Front),
        Self::Frozen(Process::Operator),
        Self::Deleted(Pod::Node),
        Self::Deleted(Pod::Front),
        Self::Deleted(Pod::Operator),
        Self::Forced(Pod::Node),
        Self::Forced(Pod::Front),
        Self::Forced(Pod::Operator),
        Self::Machine(Harm::Killed),
        Self::Machine(Harm::Cut),
        Self::Machine(Harm::Mute),
        Self::Machine(Harm::Deaf),
        Self::Machine(Harm::Parted),
        Self::Machine(Harm::WithoutApi),
        Self::Machine(Harm::Delayed),
        Self::Machine(Harm::Lossy),
        Self::Machine(Harm::KubeletKilled),
        Self::Machine(Harm::ContainerdKilled),
        Self::Stopped(Service::ApiServer),
        Self::Stopped(Service::Etcd),
        Self::Volume(Loss::Lost),
        Self::Volume(Loss::StandbyFull),
        Self::Volume(Loss::PrimaryFull),
        Self::Changed(Change::Scale),
        Self::Changed(Change::Switchover),
        Self::Changed(Change::Restart),
    ];

    /// Whether it is undone after a while.
    pub fn is_undone(self) -> bool {
        match self {
            Self::Frozen(_) | Self::Machine(_) | Self::Stopped(_) => true,
            Self::Volume(loss) => loss != Loss::Lost,
            Self::Changed(change) => change == Change::Scale,
            Self::Killed(_) | Self::Deleted(_) | Self::Forced(_) => false,
        }
    }

    /// Whether the API server has to answer for it to be made and undone.
    pub fn needs_api(self) -> bool {
        matches!(self, Self::Deleted(_) | Self::Forced(_) | Self::Volume(_) | Self::Changed(_))
    }

    /// Whether a node's copy of the data is of no use to the pool as long as it lasts.
    pub fn takes_copy(self) -> bool {
        match self {
            Self::Volume(_) | Self::Frozen(Process::Postgres | Process::Agent) => true,
            Self::Changed(change) => change == Change::Scale,
            Self::Machine(harm) => {
                !matches!(harm, Harm::Delayed | Harm::Lossy | Harm::KubeletKilled | Harm::ContainerdKilled)
            }
            Self::Killed(_) | Self::Frozen(_) | Self::Deleted(_) | Self::Forced(_) | Self::Stopped(_) => {
                false
            }
        }
    }

    /// Whether it takes away pods that it isn't aimed at: whoever is on that machine, or each in turn.
    pub fn takes_pods(self) -> bool {
        match self {
            Self::Machine(harm) => harm == Harm::Killed,
            Self::Changed(change) => change != Change::Switchover,
            _ => false,
        }
    }

    /// Whose it may be, as often as a role stands there.
    fn roles(self) -> &'static [Role] {
        match self {
            Self::Volume(Loss::PrimaryFull) => PRIMARY,
            Self::Volume(Loss::StandbyFull) | Self::Changed(Change::Switchover) => STANDBYS,
            Self::Killed(Process::Postgres | Process::Agent)
            | Self::Frozen(Process::Postgres | Process::Agent)
            | Self::Deleted(Pod::Node)
            | Self::Forced(Pod::Node)
            | Self::Machine(_)
            | Self::Volume(Loss::Lost) => ANY,
            _ => &[],
        }
    }

    /// What it is about besides nodes.
    fn thing(self) -> Option<Thing> {
        match self {
            Self::Killed(Process::Front)
            | Self::Frozen(Process::Front)
            | Self::Deleted(Pod::Front)
            | Self::Forced(Pod::Front) => Some(Thing::Fronts),
            Self::Killed(Process::Operator)
            | Self::Frozen(Process::Operator)
            | Self::Deleted(Pod::Operator)
            | Self::Forced(Pod::Operator) => Some(Thing::Operator),
            Self::Stopped(_) | Self::Machine(Harm::WithoutApi) => Some(Thing::Api),
            Self::Changed(_) => Some(Thing::Spec),
            _ => None,
        }
    }

    /// Draws whom it hits, how badly and for how long; none where all that it could hit is taken.
    fn drawn(self, dice: &mut StdRng, taken: &[Thing]) -> Option<Fault> {
        // A switchover hits nobody: it may go to a node that something else happens to.
        let free = |role: &Role| self.thing() == Some(Thing::Spec) || !taken.contains(&Thing::Node(*role));
        let mut free: Vec<Role> = self.roles().iter().copied().filter(free).collect();
        let mut roles = Vec::new();
        for _ in 0..self.nodes() {
            let role = *free.choose(dice)?;
            free.retain(|other| *other != role);
            roles.push(role);
        }
        let grade = match self {
            Self::Machine(Harm::Delayed) => dice.random_range(20..=200),
            Self::Machine(Harm::Lossy) => dice.random_range(5..=30),
            _ if self.thing() == Some(Thing::Fronts) => dice.random_range(0..=1),
            _ => 0,
        };
        let lasts = if self.is_undone() { dice.random_range(LASTS.0..=LASTS.1) } else { 0 };
        Some(Fault { kind: self, roles, grade, lasts: Duration::from_millis(lasts) })
    }

    /// How many nodes it is about.
    fn nodes(self) -> usize {
        match self {
            Self::Machine(Harm::Parted) => 2,
            _ => usize::from(!self.roles().is_empty()),
        }
    }
}

impl Fault {
    /// What it is about.
    pub fn things(&self) -> Vec<Thing> {
        let nodes = self.roles.iter().map(|role| Thing::Node(*role));
        let nodes = nodes.filter(|_| self.kind.thing() != Some(Thing::Spec));
        nodes.chain(self.kind.thing()).collect()
    }

    /// Whether the primary may be another one soon, or answer nothing.
    pub fn hits_primary(&self) -> bool {
        self.roles.contains(&Role::Primary) || self.kind == Kind::Changed(Change::Switchover)
    }

    /// Whether both may be made in one round: what they do must stay apart, and the data of one node at most may be
    /// lost, while the others keep theirs. Not the same kind twice: one power cut at most, as one machine is spared.
    fn goes_with(&self, other: &Self) -> bool {
        let things = self.things();
        let apart = other.things().iter().all(|thing| !things.contains(thing));
        let bears = |one: &Self, two: &Self| {
            let lost = one.kind == Kind::Volume(Loss::Lost) && two.kind.takes_copy();
            let mute = matches!(one.kind, Kind::Stopped(_)) && two.kind.needs_api();
            // A volume is filled from within a pod that must stay.
            let pods = matches!(one.kind, Kind::Changed(Change::Scale | Change::Restart));
            let podless = pods && matches!(two.kind, Kind::Volume(Loss::StandbyFull | Loss::PrimaryFull));
            !lost && !mute && !podless
        };
        self.kind != other.kind && apart && bears(self, other) && bears(other, self)
    }
}

/// The kinds that come next.
struct Deck(VecDeque<Kind>);

impl Deck {
    /// As many as there are, at least: so that a second fault can be looked for.
    fn fill(&mut self, dice: &mut StdRng) {
        while self.0.len() <= Kind::ALL.len() {
            let mut kinds = Kind::ALL;
            kinds.shuffle(dice);
            self.0.extend(kinds);
        }
    }

    /// The next one.
    fn deal(&mut self, dice: &mut StdRng) -> Option<Fault> {
        self.fill(dice);
        self.0.pop_front()?.drawn(dice, &[])
    }

    /// The next one that can be made beside this one.
    fn deal_beside(&mut self, first: &Fault, dice: &mut StdRng) -> Option<Fault> {
        self.fill(dice);
        for place in 0..self.0.len() {
            let drawn = self.0.get(place)?.drawn(dice, &first.things());
            if let Some(second) = drawn.filter(|second| first.goes_with(second)) {
                self.0.remove(place);
                return Some(second);
            }
        }
        None
    }
}

/// So many faults in rounds. With more of them the list only goes on.
pub fn rounds(seed: u64, faults: usize) -> Vec<Round> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut deck = Deck(VecDeque::new());
    let (mut rounds, mut left) = (Vec::new(), faults);
    while left > 0 {
        let Some(first) = deck.deal(&mut dice) else { break };
        let second = dice.random_ratio(1, PAIRS).then(|| deck.deal_beside(&first, &mut dice)).flatten();
        let apart = Duration::from_millis(dice.random_range(0..=APART));
        let mut faults: Vec<Fault> = [first].into_iter().chain(second).take(left).collect();
        // A volume is lost while the pool is still whole.
        faults.sort_by_key(|fault| fault.kind != Kind::Volume(Loss::Lost));
        left -= faults.len();
        rounds.push(Round { faults, apart });
    }
    rounds
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = |process: &Process| match process {
            Process::Postgres => "Postgres",
            Process::Agent => "agent",
            Process::Front => "front",
            Process::Operator => "operator",
        };
        let pod = |pod: &Pod| match pod {
            Pod::Node => "node's pod",
            Pod::Front => "front",
            Pod::Operator => "operator",
        };
        let text = match self {
            Self::Killed(one) => format!("{} killed", process(one)),
            Self::Frozen(Process::Agent) => "node frozen".to_owned(),
            Self::Frozen(one) => format!("{} frozen", process(one)),
            Self::Deleted(one) => format!("{} deleted", pod(one)),
            Self::Forced(one) => format!("{} deleted by force", pod(one)),
            Self::Machine(harm) => harm.to_string(),
            Self::Stopped(Service::ApiServer) => "API server stopped".to_owned(),
            Self::Stopped(Service::Etcd) => "etcd stopped".to_owned(),
            Self::Volume(Loss::Lost) => "volume lost".to_owned(),
            Self::Volume(Loss::StandbyFull) => "standby's volume full".to_owned(),
            Self::Volume(Loss::PrimaryFull) => "primary's volume full".to_owned(),
            Self::Changed(Change::Scale) => "a node less and one more".to_owned(),
            Self::Changed(Change::Switchover) => "switchover".to_owned(),
            Self::Changed(Change::Restart) => "rolling restart".to_owned(),
        };
        f.pad(&text)
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "machine killed",
            Self::Cut => "machine cut off",
            Self::Mute => "machine mute",
            Self::Deaf => "machine deaf",
            Self::Parted => "machines parted",
            Self::WithoutApi => "machine cut off from the API",
            Self::Delayed => "machine delayed",
            Self::Lossy => "machine lossy",
            Self::KubeletKilled => "kubelet killed",
            Self::ContainerdKilled => "containerd killed",
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::First => "standby A",
            Self::Second => "standby B",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut more: Vec<String> = self.roles.iter().map(Role::to_string).collect();
        match self.kind {
            Kind::Machine(Harm::Delayed) => more.push(format!("{} ms", self.grade)),
            Kind::Machine(Harm::Lossy) => more.push(format!("{} %", self.grade)),
            _ => {}
        }
        if self.kind.is_undone() {
            more.push(format!("for {:.1} s", self.lasts.as_secs_f64()));
        }
        write!(f, "{}", self.kind)?;
        if more.is_empty() { Ok(()) } else { write!(f, " ({})", more.join(", ")) }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(Fault::to_string).collect();
        f.write_str(&faults.join(&format!(", {:.1} s later ", self.apart.as_secs_f64())))
    }
}
