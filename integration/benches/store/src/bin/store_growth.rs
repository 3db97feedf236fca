//! Measures ours alone as it grows, prints the page and writes it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use trierarch_store_bench::clock;
use trierarch_store_bench::growth::cluster::Ground;
use trierarch_store_bench::growth::page::Page;
use trierarch_store_bench::growth::{Scale, away, history, idle, install, sizes};

/// The store as it grows.
#[derive(Parser)]
struct Args {
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::value_variants().to_vec())]
    parts: Vec<Part>,
    /// How many objects, one group after the other.
    #[arg(long, value_delimiter = ',')]
    objects: Option<Vec<u64>>,
    /// How long the group has nothing to do.
    #[arg(long)]
    idle_seconds: Option<u64>,
    /// So little of everything that it is over in two minutes.
    #[arg(long)]
    quick: bool,
    /// Our member's program.
    #[arg(long)]
    member: PathBuf,
    /// etcd's program, which has nothing to do beside ours.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Where data goes. It is made, and removed afterwards.
    #[arg(long)]
    directory: PathBuf,
    /// Where the page goes.
    #[arg(long)]
    page: Option<PathBuf>,
    /// The page's paragraph on machine and versions.
    #[arg(long, default_value = "")]
    about: String,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// By the number of objects.
    Sizes,
    /// A new member that receives 1 GiB.
    Install,
    /// A million revisions.
    History,
    /// A member that was away.
    Away,
    /// A group that has nothing to do.
    Idle,
}

impl Args {
    fn scale(&self) -> Scale {
        let mut scale = if self.quick { Scale::quick() } else { Scale::whole() };
        if let Some(objects) = &self.objects {
            scale.objects.clone_from(objects);
        }
        if let Some(seconds) = self.idle_seconds {
            scale.idle = Duration::from_secs(seconds);
        }
        scale
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let measured = run(&args).await;
    // whatever a part has left
    if args.directory.exists() {
        std::fs::remove_dir_all(&args.directory).with_context(|| format!("cannot remove {}", args.directory.display()))?;
    }
    let text = measured?.text();
    print(&text);
    if let Some(path) = &args.page {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

async fn run(args: &Args) -> anyhow::Result<Page> {
    let scale = args.scale();
    let ground = Ground { program: args.member.clone(), directory: args.directory.clone() };
    let mut page = Page { about: args.about.clone(), ..Page::default() };
    for part in &args.parts {
        let started = clock::now();
        match part {
            Part::Sizes => {
                for objects in &scale.objects {
                    let size = sizes::measure(&ground, *objects, scale.quiet).await;
                    page.sizes.push(size.with_context(|| format!("with {objects} objects"))?);
                }
            }
            Part::Install => {
                let measured = install::measure(&ground, scale.install_objects, scale.install_value_bytes, scale.quiet).await;
                page.install = Some(measured.context("while a new member joins")?);
            }
            Part::History => page.history = Some(history::measure(&ground, &scale).await.context("with a long history")?),
            Part::Away => page.away = Some(away::measure(&ground, scale.missed).await.context("with a member away")?),
            Part::Idle => {
                let measured = idle::measure(&ground, args.etcd.as_deref(), scale.idle).await;
                page.idle = Some(measured.context("with nothing to do")?);
            }
        }
        let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        progress(&format!("{name}: {:.0} s", started.elapsed().as_secs_f64()));
    }
    Ok(page)
}

#[expect(clippy::print_stdout, reason = "the page is this program's product")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a run takes long enough to want to know how far it is")]
fn progress(text: &str) {
    eprintln!("{text}");
}
