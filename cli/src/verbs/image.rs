//! `trierarch image`: build, list, import, export, push and pull images of the content store.

use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use serde_json::{Value, json};
use trierarch_client::{Client, kubeconfig};
use trierarch_images::build::BuildOptions;
use trierarch_images::{Auth, Event, ExportFormat, ImportOptions, Mirror, Progress, Reference, RegistryOptions, Store};

use super::Exit;
use crate::cluster::topology::Topology;
use crate::local::builder::Builder;

/// How long a step of an interrupted build may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// What a process says that a signal has ended.
const INTERRUPTED: u8 = 130;

/// Arguments of `image`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the cluster and its images are kept
    #[arg(long, global = true, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done with images.
#[derive(clap::Subcommand, Debug)]
pub enum Action {
    /// Build an image from a Containerfile
    #[command(after_help = BUILD_EXAMPLES)]
    Build(BuildArgs),
    /// Send an image to a registry: to the cluster's own unless the name begins with a host
    Push(Named),
    /// Fetch an image from a registry
    Pull(Named),
    /// List images
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove names; content that nothing uses any more goes with them
    Rm {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Give an image a further name
    Tag {
        /// The image
        name: String,
        /// The new name
        new_name: String,
    },
    /// Take in the images of a docker or OCI archive, under the names that it carries
    Import {
        /// The archive (tar, also compressed); - for standard input
        archive: PathBuf,
    },
    /// Write images as one archive
    Export {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        /// Where to
        #[arg(short, long)]
        output: PathBuf,
        /// Layout of the archive
        #[arg(long, value_parser = ["oci", "docker"], default_value = "oci")]
        format: String,
    },
}

/// Shown below the help of `build`.
pub const BUILD_EXAMPLES: &str = "\
Examples:
  trierarch build -t shop:1 docs/demo/shop
  trierarch build -t shop:2 --build-arg VERSION=2 --target web .

FROM scratch, an image that is here, a stage, or an image to be pulled. What .containerignore or .dockerignore names stays out. RUN has this
machine's network. Unchanged steps are taken from the cache; --no-cache does every step again.";

/// Arguments of `build`.
#[derive(clap::Args, Debug)]
pub struct BuildArgs {
    /// Name of the result (may be given several times)
    #[arg(short, long = "tag", required = true)]
    pub tags: Vec<String>,
    /// The Containerfile [default: Containerfile or Dockerfile in the context]
    #[arg(short, long)]
    pub file: Option<PathBuf>,
    /// A value of ARG, as NAME=VALUE
    #[arg(long = "build-arg", value_parser = pair)]
    pub build_args: Vec<(String, String)>,
    /// A label, as NAME=VALUE
    #[arg(long = "label", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// Stop after this stage
    #[arg(long)]
    pub target: Option<String>,
    /// Do every step again
    #[arg(long)]
    pub no_cache: bool,
    /// The directory that COPY and ADD read
    pub context: PathBuf,
}

/// Arguments of `push` and `pull`.
#[derive(clap::Args, Debug)]
pub struct Named {
    /// Its name
    pub name: String,
}

/// Arguments of `images`.
#[derive(clap::Args, Debug)]
pub struct LsArgs {
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// A verb of `image` that also stands for itself: `trierarch build` is `trierarch image build`.
#[derive(clap::Args, Debug)]
pub struct Alone<T: clap::Args> {
    /// Where the cluster and its images are kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// What to do
    #[command(flatten)]
    pub args: T,
}

impl<T: clap::Args> Alone<T> {
    /// The same, as a verb of `image`.
    pub fn into_image(self, action: impl FnOnce(T) -> Action) -> Args {
        Args { data_dir: self.data_dir, action: action(self.args) }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| format!("{text:?}: write NAME=VALUE"))
}

/// Carries it out.
///
/// # Errors
/// What went wrong, with the image's name.
pub fn run(args: Args) -> anyhow::Result<()> {
    let data_dir = std::path::absolute(&args.data_dir)?;
    let store = Store::open(data_dir.join("images")).with_context(|| format!("cannot open the images in {}", data_dir.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match args.action {
        Action::Build(args) => build(runtime, &store, &data_dir, args),
        Action::Push(Named { name }) => runtime.block_on(push(&store, &data_dir, &name)),
        Action::Pull(Named { name }) => {
            let reference = reference(&name)?;
            let mirrors = if names_a_host(&name) { Vec::new() } else { mirrors(&runtime, &data_dir) };
            let options = RegistryOptions { mirrors, ..RegistryOptions::default() };
            runtime.block_on(trierarch_images::pull(&store, &reference, &options, progress()))?;
            Ok(())
        }
        Action::Ls(LsArgs { quiet }) => list(&store, quiet),
        Action::Rm { names } => remove(&store, &names),
        Action::Tag { name, new_name } => {
            let image = store.find(&name)?.with_context(|| format!("image {name:?} not found"))?;
            store.tag(&image, &reference(&new_name)?)?;
            Ok(())
        }
        Action::Import { archive } => import(&store, &archive),
        Action::Export { names, output, format } => {
            let names: Vec<Reference> = names.iter().map(|name| reference(name)).collect::<anyhow::Result<_>>()?;
            let format = if format == "docker" { ExportFormat::Docker } else { ExportFormat::Oci };
            let file = File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
            let mut out = BufWriter::new(file);
            trierarch_images::export(&store, &names, format, &mut out, &progress())?;
            out.flush().with_context(|| format!("cannot write {}", output.display()))
        }
    }
}

fn build(runtime: tokio::runtime::Runtime, store: &Store, data_dir: &Path, args: BuildArgs) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("building needs root: layers hold owners, and RUN makes namespaces. Try: sudo trierarch build");
    }
    if !args.context.is_dir() {
        bail!("{} is no directory: the context is the directory that COPY reads", args.context.display());
    }
    let tags = args.tags.iter().map(|tag| reference(tag)).collect::<anyhow::Result<_>>()?;
    let builder = Builder::open(data_dir)?;
    let options = BuildOptions {
        context: args.context,
        file: args.file,
        tags,
        args: args.build_args.into_iter().collect(),
        labels: args.labels.into_iter().collect(),
        target: args.target,
        no_cache: args.no_cache,
        source_date_epoch: std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok()),
        registry: RegistryOptions { mirrors: mirrors(&runtime, data_dir), ..RegistryOptions::default() },
        runner: Some(builder.runner()),
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            built = trierarch_images::build::build(store, &options, progress()) => built.map(drop).map_err(anyhow::Error::from),
            () = super::interrupted() => Err(Exit::saying(INTERRUPTED, &anyhow::anyhow!("interrupted; finished steps stay in the cache"))),
        }
    });
    // ends what still runs; a step that loses its container ends by itself
    drop(builder);
    runtime.shutdown_timeout(END_PATIENCE);
    outcome
}

/// The registries that are asked before the one in a name: the cluster's, if one is up here.
pub fn mirrors(runtime: &tokio::runtime::Runtime, data_dir: &Path) -> Vec<Mirror> {
    let Ok(Some(topology)) = crate::cluster::load(data_dir) else { return Vec::new() };
    match runtime.block_on(cluster_registry(&topology)) {
        Ok(mirror) => vec![mirror],
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "The cluster's registry is not asked");
            Vec::new()
        }
    }
}

fn reference(text: &str) -> anyhow::Result<Reference> {
    Reference::parse(text).with_context(|| format!("{text:?} is no image name"))
}

/// Shows a bar on a terminal and a line for each step elsewhere.
pub fn progress() -> Progress {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {msg}") {
        bar.set_style(style);
    }
    let done: Mutex<std::collections::BTreeMap<String, u64>> = Mutex::default();
    Progress::new(move |event| match event {
        Event::Started { bytes_total, .. } => bar.set_length(bytes_total),
        Event::Blob { digest, bytes_done, .. } => {
            let mut done = done.lock();
            done.insert(digest.to_string(), bytes_done);
            bar.set_position(done.values().sum());
        }
        Event::Archive { bytes_done, bytes_total } => {
            bar.set_length(bytes_total);
            bar.set_position(bytes_done);
        }
        Event::Step { number, total, text, cached } => {
            bar.suspend(|| eprintln!("STEP {number}/{total}: {text}{}", if cached { "  (cached)" } else { "" }));
        }
        Event::Output { bytes } => bar.suspend(|| {
            // what a build step prints is shown as it comes
            let _closed = std::io::stderr().write_all(&bytes);
        }),
        Event::Notice { text } => bar.suspend(|| eprintln!("{text}")),
        Event::Retrying { attempt, error } => bar.suspend(|| eprintln!("attempt {attempt} failed: {error}; trying again")),
        Event::Resolving { source } => bar.set_message(source),
        Event::Unpacking { digest } => bar.set_message(format!("unpacking {digest}")),
        Event::BlobPresent { .. } => {}
        Event::Done { digest, names } => bar.suspend(|| println!("{} {digest}", names.join(" "))),
    })
}

fn list(store: &Store, quiet: bool) -> anyhow::Result<()> {
    let mut images = store.list()?;
    images.sort_by_key(|image| image.names.first().map(Reference::familiar));
    if quiet {
        for name in images.iter().flat_map(|image| &image.names) {
            println!("{}", name.familiar());
        }
        return Ok(());
    }
    let names =
        images.iter().flat_map(|image| image.names.iter().map(move |name| (repository(name), name.tag().unwrap_or("<none>"), image)));
    let rows: Vec<_> = names.collect();
    let width = rows.iter().map(|(repository, ..)| repository.len()).max().unwrap_or(0).max("REPOSITORY".len());
    println!("{:width$}  {:12}  {:12}  {:>9}", "REPOSITORY", "TAG", "IMAGE ID", "SIZE");
    for (repository, tag, image) in rows {
        println!("{repository:width$}  {tag:12}  {:12}  {:>9}", &image.id.hex()[..12], indicatif::HumanBytes(image.size_bytes).to_string());
    }
    Ok(())
}

/// A name as people write it, without its tag.
fn repository(name: &Reference) -> String {
    let familiar = name.familiar();
    let tag = name.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    familiar.strip_suffix(&tag).map_or_else(|| familiar.clone(), str::to_owned)
}

fn remove(store: &Store, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let removed = store.remove(name)?.with_context(|| format!("image {name:?} not found"))?;
        for name in removed.untagged {
            println!("Untagged: {name}");
        }
        for digest in removed.in_use {
            println!("Still used by a container: {digest}");
        }
    }
    #[expect(clippy::disallowed_methods, reason = "the shell of a command: collection asks how old uploads are")]
    let now = std::time::SystemTime::now();
    let freed = store.gc(now)?.freed_bytes;
    println!("Freed {}.", indicatif::HumanBytes(freed));
    Ok(())
}

fn import(store: &Store, archive: &Path) -> anyhow::Result<()> {
    let imported = if archive == Path::new("-") {
        trierarch_images::import(store, std::io::stdin().lock(), &ImportOptions::default(), &progress())
    } else {
        let file = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        let options = ImportOptions { bytes_total: file.metadata().map_or(0, |data| data.len()), ..ImportOptions::default() };
        trierarch_images::import(store, file, &options, &progress())
    }
    .with_context(|| format!("cannot import {}", archive.display()))?;
    match imported.len() {
        1 => println!("Imported 1 image."),
        count => println!("Imported {count} images."),
    }
    Ok(())
}

/// Whether a name begins with a registry's host: `shop:1` does not, `localhost:5000/shop` and `quay.io/x` do.
fn names_a_host(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost")
}

async fn push(store: &Store, data_dir: &Path, name: &str) -> anyhow::Result<()> {
    let destination = reference(name)?;
    let image = store.get(&destination)?.with_context(|| format!("image {name:?} not found: build or import it first"))?;
    let options = if names_a_host(name) {
        RegistryOptions::default()
    } else {
        let topology = crate::cluster::load(data_dir)?.with_context(|| {
            format!("no cluster is up in {} to push to: start one with trierarch up, or name a registry", data_dir.display())
        })?;
        RegistryOptions { mirrors: vec![cluster_registry(&topology).await?], ..RegistryOptions::default() }
    };
    trierarch_images::push(store, &image, &destination, &options, progress()).await?;
    Ok(())
}

/// The registry of a cluster, with a token that may push.
async fn cluster_registry(topology: &Topology) -> anyhow::Result<Mirror> {
    let resolved = kubeconfig::load(&[topology.kubeconfig()])?.resolve(None, "trierarch-image")?;
    let client = Client::new(resolved.config)?;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let answer: Value = client
        .create("/api/v1/namespaces/kube-system/serviceaccounts/image-pusher/token", &request)
        .await
        .context("the cluster gives no token for pushing")?;
    let Some(token) = answer["status"]["token"].as_str() else { bail!("the cluster's answer holds no token") };
    let authority = std::fs::read(topology.data_dir.join("authority.pem")).context("cannot read the cluster's authority")?;
    Ok(Mirror { url: format!("https://127.0.0.1:{}", topology.port), auth: Auth::Bearer(token.to_owned()), ca_pem: Some(authority) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_as_people_write_them() {
        for (name, expected) in
            [("shop:1", "shop"), ("localhost:5000/shop:1", "localhost:5000/shop"), ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause")]
        {
            assert_eq!(repository(&Reference::parse(name).expect("a name")), expected);
        }
    }

    #[test]
    fn only_names_with_a_host_leave_the_cluster() {
        for (name, expected) in [
            ("shop:1", false),
            ("team/shop:1", false),
            ("localhost/shop", true),
            ("localhost:5000/shop", true),
            ("registry.k8s.io/pause:3.10", true),
        ] {
            assert_eq!(names_a_host(name), expected, "{name}");
        }
    }
}
