//! What the masters tell: the event stream of each, again and again, for as long as the experiment lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use trierarch_client::{Client, Request};
use trierarch_raft::NodeId;
use trierarch_raft::happenings::Happening;

/// How long to wait before a master that does not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Everything that is told, from all members.
pub struct Ears {
    told: mpsc::UnboundedReceiver<Told>,
    lives: std::collections::BTreeMap<NodeId, Arc<AtomicU64>>,
    _listening: JoinSet<()>,
}

struct Told {
    member: NodeId,
    /// Which of the member's processes tells it.
    life: u64,
    happening: Happening,
}

impl Ears {
    /// Listens to these.
    pub fn open(clients: impl IntoIterator<Item = (NodeId, Client)>) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let (mut listening, mut lives) = (JoinSet::new(), std::collections::BTreeMap::new());
        for (member, client) in clients {
            let life = Arc::new(AtomicU64::new(0));
            lives.insert(member, Arc::clone(&life));
            let tell = tell.clone();
            listening.spawn(async move {
                loop {
                    // a master that is down or cannot be reached tells nothing: that is for others to notice
                    drop(listen(member, &client, &life, &tell).await);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            });
        }
        Self { told, lives, _listening: listening }
    }

    /// A member's process has ended: what is still on its way from it is old.
    pub fn forget(&self, member: NodeId) {
        if let Some(life) = self.lives.get(&member) {
            life.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was told since the last call.
    pub fn heard(&mut self) -> Vec<(NodeId, Happening)> {
        let mut heard = Vec::new();
        while let Ok(told) = self.told.try_recv() {
            let life = self.lives.get(&told.member).map(|life| life.load(Ordering::Relaxed));
            if life == Some(told.life) {
                heard.push((told.member, told.happening));
            }
        }
        heard
    }
}

async fn listen(member: NodeId, client: &Client, life: &AtomicU64, tell: &mpsc::UnboundedSender<Told>) -> anyhow::Result<()> {
    let life = life.load(Ordering::Relaxed);
    let mut stream = client.stream(Request::get("/raft/v1/events")).await?;
    let mut text = Vec::new();
    while let Some(chunk) = stream.next().await {
        text.extend_from_slice(&chunk?);
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let message: Vec<u8> = text.drain(..end + 2).collect();
            for data in message.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data: ")) {
                tell.send(Told { member, life, happening: serde_json::from_slice(data)? })?;
            }
        }
    }
    Ok(())
}
