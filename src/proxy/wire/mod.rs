//! PostgreSQL's protocol, as far as the front speaks or follows it (PostgreSQL documentation, "Frontend/Backend
//! Protocol").
pub mod cycle;
pub mod message;
pub mod startup;
pub mod walk;
pub mod words;
