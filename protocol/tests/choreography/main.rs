//! Declarations, and folds over events of instances: whatever the form and the order of arrival, the result is one.
#![allow(clippy::unwrap_used)]

mod declarations;
mod examples;
mod incidents;
mod orders;
mod rehearsals;
mod views;
