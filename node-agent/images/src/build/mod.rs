//! Building images from a Containerfile.
//!
//! `parse` and `plan` say what is to be done, `state` what an image has become; this file drives them, step by step. A step that changes files
//! does so in an overlay of the layers so far; what it leaves in the upper directory is the new layer. Steps are remembered by everything that
//! went into them, so an unchanged build makes nothing again and gives the same image.

pub(crate) mod cache;
mod copy;
mod execute;
mod expand;
pub(crate) mod glob;
mod ignore;
mod layer;
mod overlay;
mod parse;
mod plan;
mod run;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::run::RuntimeRunner;

use self::parse::Kind;
use self::plan::{Base, Plan};
use crate::error::StoreError;
use crate::image::Image;
use crate::layers::RootfsLayers;
use crate::progress::Progress;
use crate::pull::{PullError, pull};
use crate::reference::Reference;
use crate::remote::RegistryOptions;
use crate::store::Store;

/// What to build.
#[derive(Clone, Default)]
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
    /// No file and no image is younger than this time (seconds since 1970), so that equal inputs give equal digests on every machine.
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
    /// Runs the command to its end, with the host's network, and returns its exit code. Output is handed over as it comes. Nothing but the
    /// command's own changes remains in `upper`.
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
    /// A base image is neither here nor to be had.
    #[error("{file}:{line}: {image}")]
    Base {
        /// The file as given.
        file: String,
        /// Of its FROM or COPY.
        line: usize,
        /// The image.
        image: String,
        /// Why.
        source: Box<PullError>,
    },
    /// There is no Containerfile, or it cannot be read.
    #[error("read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store refused, the disk is full.
    #[error("build")]
    Store(#[from] StoreError),
    /// The build's thread ended by itself: a bug.
    #[error("build ended early")]
    Ended(#[from] tokio::task::JoinError),
}

/// What the steps need besides the plan.
pub(crate) struct Inputs {
    pub(crate) file: String,
    pub(crate) escape: char,
    pub(crate) plan: Plan,
    /// Base images, by the name in the file.
    pub(crate) images: BTreeMap<String, Image>,
    pub(crate) ignore: ignore::Ignore,
}

/// Builds an image and names it. Needs root: layers hold owners and devices, and steps see an overlay mount of their own.
///
/// # Errors
/// See the variants. Nothing is named then; finished steps stay in the cache.
pub async fn build(store: &Store, options: &BuildOptions, progress: Progress) -> Result<Image, BuildError> {
    let path = containerfile(options);
    let text = std::fs::read_to_string(&path).map_err(|source| BuildError::Read { path: path.clone(), source })?;
    let file = path.strip_prefix(&options.context).unwrap_or(&path).display().to_string();
    let at = |error: parse::ParseError| BuildError::Line { file: file.clone(), line: error.line, problem: error.problem };
    let parsed = parse::parse(&text).map_err(at)?;
    let plan = plan::plan(&parsed, &options.args, options.target.as_deref()).map_err(at)?;
    let mut images = BTreeMap::new();
    for (name, line) in images_of(&plan, parsed.escape, &options.args) {
        let image = base_image(store, &name, options, &progress).await;
        let image = image.map_err(|error| match error {
            BaseError::Reference(problem) => BuildError::Line { file: file.clone(), line, problem },
            BaseError::Pull(source) => BuildError::Base { file: file.clone(), line, image: name.clone(), source },
            BaseError::Store(source) => BuildError::Store(source),
        })?;
        images.insert(name, image);
    }
    let inputs = Inputs { file, escape: parsed.escape, plan, images, ignore: read_ignore(&path, &options.context)? };
    let (store, options) = (store.clone(), options.clone());
    tokio::task::spawn_blocking(move || execute::execute(&store, &options, &inputs, &progress)).await?
}

enum BaseError {
    Reference(String),
    Pull(Box<PullError>),
    Store(StoreError),
}

/// An image that is here, else one that is pulled.
async fn base_image(store: &Store, name: &str, options: &BuildOptions, progress: &Progress) -> Result<Image, BaseError> {
    let reference = Reference::parse(name).map_err(|error| BaseError::Reference(format!("{name}: {error}")))?;
    if let Some(image) = store.get(&reference).map_err(BaseError::Store)? {
        return Ok(image);
    }
    pull(store, &reference, &options.registry, progress.clone()).await.map_err(|error| BaseError::Pull(Box::new(error)))
}

/// Images that needed stages stand on or copy from, with the line that names them first.
fn images_of(plan: &Plan, escape: char, args: &BTreeMap<String, String>) -> Vec<(String, usize)> {
    let mut seen = BTreeSet::new();
    let mut images = Vec::new();
    let mut add = |name: &str, line: usize| {
        if seen.insert(name.to_owned()) {
            images.push((name.to_owned(), line));
        }
    };
    for number in &plan.needed {
        let stage = &plan.stages[*number];
        if let Base::Image(name) = &stage.base {
            add(name, stage.from.line);
        }
        for instruction in &stage.instructions {
            if let Kind::Copy(copy) = &instruction.kind
                && let Some(from) = &copy.from
                && plan::find(from, &plan.stages[..*number]).is_none()
            {
                let lookup = |key: &str| args.get(key).or_else(|| plan.global_args.get(key)).cloned();
                add(&expand::expand(from, escape, &lookup).unwrap_or_else(|_unchanged| from.clone()), instruction.line);
            }
        }
    }
    images
}

fn containerfile(options: &BuildOptions) -> PathBuf {
    match &options.file {
        Some(path) => path.clone(),
        None => {
            let path = options.context.join("Containerfile");
            if path.exists() { path } else { options.context.join("Dockerfile") }
        }
    }
}

/// The first of `FILE.containerignore`, `FILE.dockerignore`, `.containerignore`, `.dockerignore`.
fn read_ignore(file: &Path, context: &Path) -> Result<ignore::Ignore, BuildError> {
    let beside = |suffix: &str| PathBuf::from(format!("{}.{suffix}", file.display()));
    for path in [beside("containerignore"), beside("dockerignore"), context.join(".containerignore"), context.join(".dockerignore")] {
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(ignore::Ignore::parse(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(BuildError::Read { path, source }),
        }
    }
    Ok(ignore::Ignore::default())
}

#[cfg(test)]
mod tests;
