//! The election laboratory: an experiment as a file, what happened when it was carried out, and a report that one would rather look at than
//! read. Pure: no clock, no I/O, no runtime. The program runs an experiment on real processes, `trierarch-sim` in a simulated world; both
//! ask the [`director`] what to do next, fill a [`recording`], and hand it to [`report`].
//!
//! Begin with [`experiment`] (the file), then [`director`] (what is due now), [`recording`] (what happened), [`story`] (what it means),
//! [`measure`] and [`predictions`] (what is compared), [`report`] and [`render`] (what people see).

pub mod director;
pub mod distribution;
pub mod experiment;
pub mod measure;
pub mod predictions;
pub mod recording;
pub mod render;
pub mod report;
pub mod span;
pub mod story;
pub mod target;
