//! Tells somebody that a value is gone: the last field of a struct, dropped after all others.

use tokio::sync::oneshot;

/// Signals when it is dropped.
pub(crate) struct DropSignal(Option<oneshot::Sender<()>>);

impl DropSignal {
    /// The signal, and what becomes ready when it is dropped.
    pub(crate) fn new() -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }
}

impl Drop for DropSignal {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            // nobody may be waiting
            sender.send(()).ok();
        }
    }
}
