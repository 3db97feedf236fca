//! Linearizable reads: all that wait at the same time share one question to the leader.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::core::Core;
use crate::store::StoreError;

/// Somebody who wants to know the read index.
pub(crate) struct ReadRequest {
    /// Until when.
    pub(crate) deadline: Instant,
    /// Where to tell it.
    pub(crate) answer: oneshot::Sender<Result<u64, StoreError>>,
}

/// Answers read requests until the store closes. A request that arrives while a question is on its way takes part in the next one: the
/// index must be one that was current after the request.
pub(crate) async fn serve_reads(core: Arc<Core>, mut requests: mpsc::Receiver<ReadRequest>) {
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            received = requests.recv_many(&mut batch, 4096) => received,
            () = core.closing.cancelled() => 0,
        };
        if received == 0 {
            return;
        }
        let Some(deadline) = batch.iter().map(|request: &ReadRequest| request.deadline).max() else { continue };
        let index = core.read_index(deadline).await;
        for request in batch.drain(..) {
            // whoever asked may have given up
            drop(request.answer.send(index.clone()));
        }
    }
}
