//! Random walks: which step is next, the same for the same seed.
use crate::state::State;
use crate::world::{Step, World};

/// SplitMix64: the same numbers everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let end = u64::try_from(end).expect("few choices");
        usize::try_from(bits % end).expect("below a usize")
    }
}

impl World {
    /// One of the steps that lead somewhere. What happens seldom, or costs of what may still happen, comes up less often, or
    /// a walk would be over before anything has come of it.
    pub fn pick(&self, dice: &mut Dice, s: &State, steps: &[Step]) -> Option<usize> {
        let mut left: Vec<usize> = (0..steps.len()).collect();
        while !left.is_empty() {
            let at = dice.below(left.len());
            if seldom(steps[left[at]]) && left.len() > 1 && dice.below(6) > 0 {
                continue;
            }
            let step = left.swap_remove(at);
            if self.after(s, steps[step]).is_some() {
                return Some(step);
            }
        }
        None
    }
}

/// Faults, wishes, what a standby does without need, and the clock.
fn seldom(step: Step) -> bool {
    use Step::{Crash, Die, Double, HandOver, Suspect, Tick, Wish};
    matches!(step, Crash(_) | Die(_) | Double(..) | HandOver(..) | Suspect(_) | Tick | Wish(_))
}
