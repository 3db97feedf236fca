//! Building images from a Containerfile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::image::Image;
use crate::layers::RootfsLayers;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::remote::RegistryOptions;
use crate::store::Store;

pub(crate) mod cache;
pub(crate) mod glob;

/// What to build.
#[derive(Clone)]
pub struct BuildOptions {
    /// The directory COPY and ADD read.
    pub context: PathBuf,
    /// The Containerfile; `Containerfile` or `Dockerfile` in the context if `None`.
    pub file: Option<PathBuf>,
    /// Names for the result.
    pub tags: Vec<Reference>,
    /// Values of ARG.
    pub args: BTreeMap<String, String>,
    /// Labels added to the result.
    pub labels: BTreeMap<String, String>,
    /// Stop after this stage (its name or number).
    pub target: Option<String>,
    /// Do every step again.
    pub no_cache: bool,
    /// Every file and the image carry this time (seconds since 1970), so that equal inputs give equal digests.
    pub source_date_epoch: Option<i64>,
    /// How base images that are not here are pulled.
    pub registry: RegistryOptions,
    /// Executes RUN; without it RUN is an error.
    pub runner: Option<Arc<dyn RunStep>>,
}

/// One RUN instruction, ready to execute.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The layers so far.
    pub lower: RootfsLayers,
    /// What the command changes goes here and becomes the layer.
    pub upper: PathBuf,
    /// overlayfs's work directory, on the same file system.
    pub work: PathBuf,
    /// The command.
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// The working directory in the container.
    pub cwd: String,
    /// `USER` as written: name or number, maybe with a group; empty for root.
    pub user: String,
}

/// Executes RUN.
pub trait RunStep: Send + Sync {
    /// Runs the command to its end, with the host's network, and returns its exit code. Output is handed over as it comes.
    ///
    /// # Errors
    /// The command could not be started; the text says why.
    fn run(&self, request: &RunRequest, output: &mut dyn FnMut(&[u8])) -> Result<i32, String>;
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A line of the Containerfile is wrong or cannot be done.
    #[error("{file}:{line}: {problem}")]
    Line {
        /// The file as given.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

/// Builds an image and names it.
///
/// # Errors
/// See the variants.
pub async fn build(_store: &Store, _options: &BuildOptions, _progress: Progress) -> Result<Image, BuildError> {
    unimplemented!("in work")
}
