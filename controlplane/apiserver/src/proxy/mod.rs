//! Ways to the nodes: the agents' own endpoints, and through them the addresses of pods and Services.

pub mod agent;
pub mod forward;
pub mod io;
pub mod links;
pub mod tunnel;
pub mod upgrade;
