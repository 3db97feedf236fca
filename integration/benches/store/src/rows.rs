//! What is measured: the table's rows.

use crate::traffic::Mix;
use crate::watching;

/// Connections of a closed loop, at most: each carries several calls at once.
const CONNECTIONS_MAX: usize = 16;

/// Which member is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The leader.
    Leader,
    /// One that does not lead.
    Follower,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Calls in a closed loop.
    Calls { mix: Mix, in_flight: usize },
    /// One writer, and so many watchers of what it writes.
    Watch { watchers: usize },
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// As the table and `--rows` call it.
    pub name: String,
    /// Who is asked.
    pub asked: Asked,
    /// For what.
    pub work: Work,
}

impl Row {
    fn calls(name: &str, asked: Asked, mix: Mix, in_flight: usize) -> Self {
        Self { name: format!("{name}, {in_flight} in flight"), asked, work: Work::Calls { mix, in_flight } }
    }

    /// Of the value of every change; 0 if nothing is changed.
    pub fn change_bytes(&self) -> usize {
        match self.work {
            Work::Calls { mix, .. } => mix.value_bytes(),
            Work::Watch { .. } => watching::VALUE_BYTES,
        }
    }
}

/// All rows, in the table's order.
pub fn all() -> Vec<Row> {
    use Asked::{Follower, Leader};
    let mut rows = Vec::new();
    for (size, value_bytes) in [("256 B", 256), ("1 KiB", 1 << 10), ("16 KiB", 16 << 10)] {
        for in_flight in [1, 64, 1024] {
            rows.push(Row::calls(&format!("put {size}"), Leader, Mix::Put { value_bytes }, in_flight));
        }
    }
    for (name, asked, linearizable) in
        [("get from the leader", Leader, true), ("get from a follower", Follower, true), ("local get", Follower, false)]
    {
        for in_flight in [1, 64, 1024] {
            rows.push(Row::calls(name, asked, Mix::Get { linearizable }, in_flight));
        }
    }
    rows.push(Row::calls("range of 1,000 keys", Leader, Mix::Range { limit: 1000 }, 16));
    rows.push(Row::calls("swap of 8 contended keys", Leader, Mix::Swap { keys: 8 }, 64));
    rows.push(Row::calls("90 % get, 10 % put", Leader, Mix::Mixed { read_percent: 90 }, 64));
    for watchers in [1, 100, 1000] {
        rows.push(Row { name: format!("events to {watchers} watchers"), asked: Leader, work: Work::Watch { watchers } });
    }
    rows
}

/// How many connections a loop uses, and how many calls each keeps on the way.
pub fn spread(in_flight: usize) -> (usize, usize) {
    let connections = in_flight.clamp(1, CONNECTIONS_MAX);
    (connections, in_flight.div_ceil(connections))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_spread_over_connections_evenly() {
        assert_eq!(spread(1), (1, 1));
        assert_eq!(spread(64), (16, 4));
        assert_eq!(spread(1024), (16, 64));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<String> = all().into_iter().map(|row| row.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
