//! `trierarch kubeconfig`: where the administrator's kubeconfig is.

use std::path::PathBuf;

use anyhow::bail;

/// Arguments of `kubeconfig`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the cluster is kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// Prints the path.
///
/// # Errors
/// When no cluster is up.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let data_dir = std::path::absolute(&args.data_dir)?;
    match crate::cluster::load(&data_dir)? {
        Some(topology) => println!("{}", topology.kubeconfig().display()),
        None => bail!("no cluster is up in {}: start one with trierarch up", data_dir.display()),
    }
    Ok(())
}
