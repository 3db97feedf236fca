//! Measures ours alone at several sizes, and prints the table.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use trierarch_etcd_facade::tls::Identity;
use trierarch_store_bench::growth;

/// The store as it grows.
#[derive(Parser)]
struct Args {
    /// How many objects, one group after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000, 1_000_000])]
    objects: Vec<u64>,
    /// How long the group has nothing to do.
    #[arg(long, default_value_t = 60)]
    idle_seconds: u64,
    /// Our member's program.
    #[arg(long)]
    member: PathBuf,
    /// Where data goes. It is made, and removed afterwards.
    #[arg(long)]
    directory: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut figures = Vec::new();
    for objects in &args.objects {
        let directory = args.directory.join(objects.to_string());
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let identity = Identity::make(&directory)?;
        let measured = growth::measure(&args.member, &directory, &identity, *objects, Duration::from_secs(args.idle_seconds)).await;
        std::fs::remove_dir_all(&directory)?;
        figures.push(measured.with_context(|| format!("with {objects} objects"))?);
    }
    std::fs::remove_dir(&args.directory)?;
    print(&growth::table(&figures));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is this program's product")]
fn print(text: &str) {
    println!("{text}");
}
