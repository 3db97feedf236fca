//! The beginning of a group: the first member is alone, then it adds the others one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use trierarch_raft::{Member, MemberRole, NodeId, Store, StoreError};

use crate::network::address_of;
use crate::world::World;

/// How long adding a member may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A group that is being founded.
pub struct Founding {
    /// The member that is being added; the first one founds the group.
    member: NodeId,
    done: Arc<AtomicBool>,
}

impl Founding {
    /// Adds the planned members to the world, and has the first one found the group.
    ///
    /// # Errors
    /// A member does not open.
    pub fn begin(world: &mut World) -> anyhow::Result<Self> {
        for id in 1..=world.plan.members {
            world.add(id)?;
        }
        let done = on_first(world, |store| async move { store.initialize().await })?;
        Ok(Self { member: 1, done })
    }

    /// Goes on as far as it can by now; whether all members vote.
    ///
    /// # Errors
    /// The first member is gone.
    pub fn advance(&mut self, world: &World) -> anyhow::Result<bool> {
        if !self.done.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if self.member < world.plan.members {
            self.member += 1;
            let id = self.member;
            let member = Member { id, peer_address: address_of(id), api_address: String::new(), role: MemberRole::Voter };
            self.done = on_first(world, move |store| async move { store.add_member(member, PATIENCE).await })?;
            return Ok(false);
        }
        let first = world.members.get(&1).and_then(|member| member.store()).context("the first member runs")?;
        let voters = first.status().members.iter().filter(|member| member.role == MemberRole::Voter).count();
        Ok(u64::try_from(voters).is_ok_and(|voters| voters == world.plan.members))
    }
}

/// Has the first member do something; set when it is done.
fn on_first<A>(world: &World, what: impl FnOnce(Store) -> A) -> anyhow::Result<Arc<AtomicBool>>
where
    A: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let member = world.members.get(&1).context("the first member is there")?;
    let store = member.store().cloned().context("it runs")?;
    let done = Arc::new(AtomicBool::new(false));
    let (told, asked) = (Arc::clone(&done), what(store));
    member.spawn(async move {
        if asked.await.is_ok() {
            told.store(true, Ordering::Relaxed);
        }
    });
    Ok(done)
}
