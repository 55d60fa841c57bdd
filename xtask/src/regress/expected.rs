//! The differences that there have to be, each with its reason; docs/compatibility.md has the same list.

/// Lines that differ in one file, counted as `diff` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The test.
    pub name: &'static str,
    /// Lines that only the primary itself says.
    pub lost: usize,
    /// Lines that only the front's client sees.
    pub new: usize,
    /// Why.
    pub why: &'static str,
}

/// All of them.
pub const ALL: &[Expected] = &[
    Expected { name: "test_setup", lost: 0, new: 3, why: "SET synchronous_commit = on is refused (R11)" },
    Expected {
        name: "subscription",
        lost: 3,
        new: 7,
        why: "ALTER SUBSCRIPTION … SET (synchronous_commit = …) is refused by its words (R11)",
    },
];
