//! Properties of the membership deciders, on views that no order of events has to lead to: an agent may
//! find anything after a crash, so the rules hold whatever it finds.
#[cfg(test)]
mod elections;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod takeup;
#[cfg(test)]
mod views;
