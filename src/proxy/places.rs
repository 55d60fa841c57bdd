//! How many sessions there may be: of all clients, and of each role.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;

/// Bytes of a role's name that count (`NAMEDATALEN`).
const NAME: usize = 63;

/// The places for clients that have proved who they are.
pub struct Places {
    all: Arc<Semaphore>,
    /// How many of them one role may have.
    each: Option<usize>,
    /// How many each role has, where that is limited.
    taken: Mutex<HashMap<String, usize>>,
}

/// A session's place, given back when dropped.
pub struct Place {
    places: Arc<Places>,
    role: String,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// So many, of which each role may have so many.
    pub fn new(all: usize, each: Option<usize>) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(all)), each, taken: Mutex::default() })
    }

    /// Whether nobody more can be let in.
    pub fn is_full(&self) -> bool {
        self.all.available_permits() == 0
    }

    /// A place for a session of this role; the reason where there is none.
    pub fn take(self: &Arc<Self>, role: &str) -> Result<Place, Refusal> {
        let permit = Arc::clone(&self.all).try_acquire_owned().map_err(|_| Refusal::Full)?;
        let role = cut(role).to_owned();
        if let Some(each) = self.each {
            let mut taken = self.taken();
            let of_role = taken.get(&role).copied().unwrap_or_default();
            if of_role >= each {
                return Err(Refusal::UserFull);
            }
            taken.insert(role.clone(), of_role + 1);
        }
        Ok(Place { places: Arc::clone(self), role, _permit: permit })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        match taken.get_mut(&self.role) {
            Some(of_role) if *of_role > 1 => *of_role -= 1,
            _ => drop(taken.remove(&self.role)),
        }
    }
}

/// A name as PostgreSQL cuts it: a longer one is the same role's.
fn cut(name: &str) -> &str {
    let end = (0..=NAME.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(places: &Arc<Places>, role: &str) -> Option<Refusal> {
        places.take(role).err()
    }

    #[test]
    fn a_role_has_no_more_than_its_places() {
        let places = Places::new(4, Some(2));
        let (one, other) = (places.take("app").unwrap(), places.take("app").unwrap());
        assert_eq!(refusal(&places, "app"), Some(Refusal::UserFull));
        let third = places.take("report").unwrap();
        drop(one);
        let again = places.take("app").unwrap();
        assert_eq!(refusal(&places, "app"), Some(Refusal::UserFull), "nothing is left of who was refused");
        let fourth = places.take("report").unwrap();
        assert!(places.is_full());
        assert_eq!(refusal(&places, "third"), Some(Refusal::Full));
        drop((other, third, again, fourth));
        assert!(places.taken().is_empty() && !places.is_full());
    }

    #[test]
    fn without_a_limit_roles_are_not_counted() {
        let places = Places::new(3, None);
        let all: Vec<_> = (0..3).map(|_| places.take("app").unwrap()).collect();
        assert_eq!(refusal(&places, "app"), Some(Refusal::Full));
        assert!(places.taken().is_empty());
        drop(all);
        assert_eq!(refusal(&places, "app"), None);
    }

    #[test]
    fn a_name_that_is_too_long_is_no_other_role() {
        let places = Places::new(9, Some(1));
        let _one = places.take(&"a".repeat(63)).unwrap();
        assert_eq!(refusal(&places, &"a".repeat(70)), Some(Refusal::UserFull));
        assert_eq!(refusal(&places, &"a".repeat(62)), None);
        assert_eq!(cut(&"ö".repeat(40)).len(), 62, "between two letters");
    }
}
