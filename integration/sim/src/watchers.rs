//! Watches that are kept open: whoever loses one goes on at another member from where it was, or begins anew if the history is gone.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use trierarch_raft::{NodeId, Revision, Store, WatchError};

use crate::dice::Dice;
use crate::event::{Change, Event};
use crate::world::World;

/// A watch that brings nothing for so long says how far it has come.
const PROGRESS_PAUSE: Duration = Duration::from_millis(300);
/// A member that is asked anew after this time.
const LIFE_MS: (u64, u64) = (500, 6_000);

/// The watches of a run.
pub struct Watchers {
    dice: Dice,
    watchers: Vec<Watcher>,
    next_watch: u64,
    /// The only members that may be asked; `None`: any.
    group: Option<BTreeSet<NodeId>>,
}

struct Watcher {
    prefix: Bytes,
    /// Where to go on; `None`: from wherever the next member is.
    after: Option<Revision>,
    open: Option<Open>,
}

struct Open {
    watch: u64,
    member: NodeId,
    until_ms: u64,
    news: Arc<Mutex<Vec<News>>>,
    token: Arc<()>,
}

enum News {
    Changes(Vec<Change>, Revision),
    Compacted,
}

impl Watchers {
    /// The watches of a run: of everything, and of parts.
    pub fn new(dice: Dice, count: u64) -> Self {
        let prefixes = ["", "group/kind/", "group/kind/ns1/"];
        let watcher = |prefix: &&str| Watcher { prefix: Bytes::from((*prefix).to_owned()), after: Some(0), open: None };
        let count = usize::try_from(count).unwrap_or(1);
        Self { dice, watchers: prefixes.iter().cycle().take(count).map(watcher).collect(), next_watch: 0, group: None }
    }

    /// How far the watch that is furthest behind has come.
    pub fn slowest(&self) -> Revision {
        self.watchers.iter().map(|watcher| watcher.after.unwrap_or(0)).min().unwrap_or(0)
    }

    /// From now on only these members are asked: others, which were removed or never joined, know of nothing new.
    pub fn stay_with(&mut self, group: impl IntoIterator<Item = NodeId>) {
        self.group = Some(group.into_iter().collect());
    }

    /// Takes what they brought, and opens those that are closed.
    pub fn step(&mut self, world: &World) {
        let now_ms = world.now_ms();
        let may_ask = |member: &NodeId| self.group.as_ref().is_none_or(|group| group.contains(member));
        let members: Vec<NodeId> = world.up().into_iter().filter(may_ask).collect();
        for watcher in &mut self.watchers {
            watcher.take(world, now_ms);
            watcher.open.take_if(|open| !may_ask(&open.member));
            if watcher.open.is_none()
                && let Some(member) = self.dice.pick(&members)
            {
                self.next_watch += 1;
                let until_ms = now_ms + self.dice.between(LIFE_MS.0, LIFE_MS.1);
                watcher.open(world, member, self.next_watch, until_ms);
            }
        }
    }
}

impl Watcher {
    fn open(&mut self, world: &World, member: NodeId, watch: u64, until_ms: u64) {
        let Some(member) = world.members.get(&member) else { return };
        let Some(store) = member.store().cloned() else { return };
        let after = *self.after.get_or_insert_with(|| store.view().revision());
        world.recorder.record(Event::Watching { watch, member: member.id(), prefix: self.prefix.clone(), after });
        let (news, token) = (Arc::new(Mutex::new(Vec::new())), Arc::new(()));
        let open = Open { watch, member: member.id(), until_ms, news: Arc::clone(&news), token: Arc::clone(&token) };
        let news = Arc::downgrade(&news);
        let prefix = self.prefix.clone();
        member.spawn(async move {
            let _token = token;
            follow(&store, &prefix, after, news).await;
        });
        self.open = Some(open);
    }

    fn take(&mut self, world: &World, now_ms: u64) {
        let Some(open) = &self.open else { return };
        let news = std::mem::take(&mut *open.news.lock());
        let mut over = now_ms >= open.until_ms || Arc::strong_count(&open.token) == 1;
        for news in news {
            match news {
                News::Changes(changes, progress) => {
                    world.recorder.record(Event::Watched { watch: open.watch, changes, progress });
                    self.after = Some(progress);
                }
                News::Compacted => {
                    self.after = None;
                    over = true;
                }
            }
        }
        if over {
            self.open = None;
        }
    }
}

/// Tells the news until nobody wants them any more.
async fn follow(store: &Store, prefix: &[u8], after: Revision, news: Weak<Mutex<Vec<News>>>) {
    let tell = |what| news.upgrade().map(|news| news.lock().push(what));
    let ended = async {
        let mut watcher = store.watch(prefix, after).await?;
        loop {
            // giving up waiting loses nothing
            let changes = match tokio::time::timeout(PROGRESS_PAUSE, watcher.next()).await {
                Ok(events) => events?.iter().map(|event| Change::from(&**event)).collect(),
                Err(_elapsed) => Vec::new(),
            };
            if tell(News::Changes(changes, watcher.progress())).is_none() {
                return Ok(());
            }
        }
    };
    if let Err(WatchError::Compacted { .. }) = ended.await {
        tell(News::Compacted);
    }
}
