//! The checker is checked: on real servers it must pass what is whole, and find what was broken on purpose.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod desk;
#[cfg(test)]
mod registers;
#[cfg(test)]
mod support;
