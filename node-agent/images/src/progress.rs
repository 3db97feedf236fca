//! What long operations tell while they run.

use std::fmt;
use std::sync::Arc;

use crate::digest::Digest;

/// One report. Reports of one operation arrive in order; layers interleave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A registry is asked what the name means. `source` is the host asked (a mirror's, maybe).
    Resolving {
        /// Whom it asks.
        source: String,
    },
    /// The total is known.
    Started {
        /// Layers in the image.
        layers: usize,
        /// Bytes to move, not counting what is already there.
        bytes_total: u64,
    },
    /// A blob moved on. `bytes_done == bytes_total` when it is complete.
    Blob {
        /// Which.
        digest: Digest,
        /// Moved so far.
        bytes_done: u64,
        /// Its size.
        bytes_total: u64,
    },
    /// A blob needed no transfer.
    BlobPresent {
        /// Which.
        digest: Digest,
        /// Its size.
        bytes: u64,
    },
    /// A layer is being extracted.
    Unpacking {
        /// The layer's blob.
        digest: Digest,
    },
    /// A failed attempt is repeated after a pause.
    Retrying {
        /// Starts with 1.
        attempt: u32,
        /// Why.
        error: String,
    },
    /// Bytes read of an archive that is imported.
    Archive {
        /// So far.
        bytes_done: u64,
        /// The file's size, 0 if unknown (a pipe).
        bytes_total: u64,
    },
    /// A build step starts: "STEP 3/7: COPY . /app".
    Step {
        /// Starts with 1.
        number: usize,
        /// How many steps the build has.
        total: usize,
        /// The instruction as written, substituted.
        text: String,
        /// The result is taken from the cache.
        cached: bool,
    },
    /// Output of a RUN step.
    Output {
        /// Raw bytes of stdout or stderr.
        bytes: Vec<u8>,
    },
    /// Something a person should know and that does not stop the work.
    Notice {
        /// A sentence.
        text: String,
    },
    /// An image is complete.
    Done {
        /// Its manifest or index.
        digest: Digest,
        /// Under these names.
        names: Vec<String>,
    },
}

/// Where reports go. Cheap to clone; called from several threads; must not block for long.
#[derive(Clone)]
pub struct Progress {
    sink: Option<Arc<dyn Fn(Event) + Send + Sync>>,
}

impl Progress {
    /// Reports go to this function.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { sink: Some(Arc::new(sink)) }
    }

    /// Nobody listens.
    pub fn none() -> Self {
        Self { sink: None }
    }

    pub(crate) fn report(&self, event: Event) {
        if let Some(sink) = &self.sink {
            sink(event);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("listening", &self.sink.is_some()).finish()
    }
}
