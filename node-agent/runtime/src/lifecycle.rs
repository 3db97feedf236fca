//! The life of sandboxes and containers as transition tables.
//!
//! ```text
//! container:  Created ──start──> Starting ──started──> Running ──exited──> Exited ──remove──> (gone)
//!                │                   └──failed──────────────────────────────^  ^
//!                └──remove──> (gone)                    Created ──exited(lost)─┘
//! sandbox:    Ready ──stop──> NotReady ──remove──> (gone)
//!                └──lost──────^
//! ```

use serde::{Deserialize, Serialize};

/// Where in its life a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerState {
    /// Known, no process yet.
    Created,
    /// Being started.
    Starting,
    /// Its first process runs.
    Running,
    /// Its first process ended, or starting it failed.
    Exited,
}

/// What can happen to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContainerEvent {
    /// `start_container` was called.
    Start,
    /// The process replaced itself with the program.
    Started,
    /// It could not.
    StartFailed,
    /// The first process ended, or is known to be gone.
    Exited,
    /// `remove_container` was called.
    Remove,
}

/// Whether a sandbox can run containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SandboxState {
    /// Its namespaces exist and its shim answers.
    Ready,
    /// Stopped, or its shim is gone.
    NotReady,
}

/// Outcome of looking an event up in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The next state.
    To(ContainerState),
    /// The container ceases to exist.
    Gone,
    /// Nothing changes; the event is a repetition.
    Stay,
    /// The event is refused in this state.
    Refused,
}

/// What `event` does to a container in `state`.
pub fn container_transition(state: ContainerState, event: ContainerEvent) -> Transition {
    use ContainerEvent as E;
    use ContainerState as S;
    match (state, event) {
        (S::Created, E::Start) => Transition::To(S::Starting),
        (S::Starting, E::Started) => Transition::To(S::Running),
        (S::Starting, E::StartFailed | E::Exited) => Transition::To(S::Exited),
        (S::Running | S::Created, E::Exited) => Transition::To(S::Exited),
        (S::Created | S::Exited, E::Remove) => Transition::Gone,
        // A very short process may be reported as exited before its start is.
        (S::Exited, E::Exited | E::Started) | (S::Running, E::Started) => Transition::Stay,
        (S::Created, E::Started | E::StartFailed)
        | (S::Starting | S::Running | S::Exited, E::Start)
        | (S::Starting | S::Running, E::Remove)
        | (S::Running | S::Exited, E::StartFailed) => Transition::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table as a drawing: a change of it must be meant.
    #[test]
    fn table_is_as_drawn() {
        use ContainerEvent as E;
        use ContainerState as S;
        let mut drawing = String::new();
        for state in [S::Created, S::Starting, S::Running, S::Exited] {
            for event in [E::Start, E::Started, E::StartFailed, E::Exited, E::Remove] {
                drawing.push_str(&format!("{state:?} {event:?} {:?}\n", container_transition(state, event)));
            }
        }
        assert_eq!(
            drawing,
            "Created Start To(Starting)\nCreated Started Refused\nCreated StartFailed Refused\nCreated Exited To(Exited)\nCreated Remove Gone\n\
             Starting Start Refused\nStarting Started To(Running)\nStarting StartFailed To(Exited)\nStarting Exited To(Exited)\nStarting Remove Refused\n\
             Running Start Refused\nRunning Started Stay\nRunning StartFailed Refused\nRunning Exited To(Exited)\nRunning Remove Refused\n\
             Exited Start Refused\nExited Started Stay\nExited StartFailed Refused\nExited Exited Stay\nExited Remove Gone\n"
        );
    }
}
