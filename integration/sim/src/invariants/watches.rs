//! A watch brings every change below its prefix, in order, once, and never claims to have come further than it has. Whoever has seen what was
//! lost does not go on as if nothing had happened.

use std::collections::BTreeMap;

use bytes::Bytes;
use trierarch_raft::Revision;

use super::{Invariant, history::History};
use crate::event::Event;

/// The rule, and how far the watches have come.
#[derive(Default)]
pub(super) struct Watches {
    open: BTreeMap<u64, (Bytes, Revision)>,
}

impl Invariant for Watches {
    fn name(&self) -> &'static str {
        "watches are complete and in order"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        match event {
            Event::Watching { watch, prefix, after, .. } => {
                self.open.insert(*watch, (prefix.clone(), *after));
            }
            Event::Watched { watch, changes, progress } => {
                let Some((prefix, after)) = self.open.get_mut(watch) else { return Ok(()) };
                if progress < after {
                    return Err(format!("watch {watch} went back from {after} to {progress}"));
                }
                if history.is_lost(*after) && !history.is_lost(*progress) && progress > after {
                    return Err(format!("watch {watch} went on from {after}, which was lost, to {progress}"));
                }
                let expected = history.changes(prefix, *after, *progress);
                if !expected.iter().copied().eq(changes) {
                    return Err(format!(
                        "watch {watch} of {prefix:?} brought {changes:?} for ({after}, {progress}], but there were {expected:?}"
                    ));
                }
                *after = *progress;
            }
            _ => {}
        }
        Ok(())
    }
}
