//! `trierarch run`: a single container, without a cluster.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use trierarch_images::{Image, Reference, RegistryOptions};
use trierarch_network::HostPort;

use super::Exit;
use crate::local::engine::{Creation, Engine};
use crate::local::options::{self, Network, Volume, Wish};
use crate::local::streams;
use crate::quantity;

/// What the command says when the container never began, as container tools do.
const NOT_RUN: u8 = 125;

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  trierarch run --rm -it shop:1 sh              a shell in a fresh container, removed when the shell ends
  trierarch run -d --name web -p 8080:8080 shop:1
                                                in the background; see it with ps, logs, exec; end it with stop and rm
  trierarch run --rm -v $PWD:/src:ro --memory 64m --cpus 0.5 shop:1 ls /src

Signals reach the program in the container; the third one kills it. The exit code is the program's: 125 when the container could not be
made, 126 or 127 when its program could not be started.")]
pub struct Args {
    /// Where containers and images are kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub detach: bool,
    /// Name of the container [default: the image's with some of the id]
    #[arg(long)]
    pub name: Option<String>,
    /// Remove the container as soon as it has ended
    #[arg(long)]
    pub rm: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// A variable, NAME=VALUE, or NAME to pass on (may be given several times)
    #[arg(short, long, value_parser = options::variable)]
    pub env: Vec<String>,
    /// Mount a directory or file, SOURCE:DESTINATION[:ro] (may be given several times)
    #[arg(short, long)]
    pub volume: Vec<Volume>,
    /// Make a port of this machine lead to one of the container, [ADDRESS:]PORT:CONTAINER_PORT[/udp] (may be given several times)
    #[arg(short, long, value_parser = options::published)]
    pub publish: Vec<HostPort>,
    /// How it reaches others
    #[arg(long, value_enum, default_value = "private")]
    pub network: Network,
    /// Program instead of the image's entry point
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// Run as this user, NAME or ID, maybe with :GROUP
    #[arg(short, long)]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long)]
    pub workdir: Option<String>,
    /// Host name [default: the container's name]
    #[arg(long)]
    pub hostname: Option<String>,
    /// Memory limit, such as 64Mi or 64m
    #[arg(short, long, value_parser = options::memory)]
    pub memory: Option<u64>,
    /// CPU limit, such as 0.5
    #[arg(long, value_parser = quantity::cpu_millis)]
    pub cpus: Option<u64>,
    /// Most processes
    #[arg(long)]
    pub pids_limit: Option<i64>,
    /// Refuse writes outside of volumes
    #[arg(long)]
    pub read_only: bool,
    /// A further capability, such as NET_ADMIN (may be given several times)
    #[arg(long)]
    pub cap_add: Vec<String>,
    /// A capability to take away, or ALL (may be given several times)
    #[arg(long)]
    pub cap_drop: Vec<String>,
    /// Everything that root may do on this machine
    #[arg(long)]
    pub privileged: bool,
    /// The image; it is pulled if it is not here
    pub image: String,
    /// Arguments of the entry point, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Runs the container.
///
/// # Errors
/// [`Exit`] with the program's exit code, or why the container could not be made.
pub fn run(args: Args) -> anyhow::Result<()> {
    let (detach, ephemeral, tty) = (args.detach, args.rm, args.tty);
    let data_dir = std::path::absolute(&args.data_dir)?;
    let begun = || -> anyhow::Result<(Engine, String)> {
        if !detach {
            streams::check_terminal(tty, args.interactive)?;
        }
        let engine = Engine::open(&data_dir)?;
        let here = std::env::current_dir().context("cannot find the working directory")?;
        let volumes = args.volume.iter().map(|volume| options::existing(volume.clone(), &here));
        let wish = Wish {
            entrypoint: args.entrypoint.clone(),
            command: args.command.clone(),
            env: args.env.clone(),
            volumes: volumes.collect::<Result<_, _>>().map_err(anyhow::Error::msg)?,
            workdir: args.workdir.clone(),
            tty,
            interactive: args.interactive,
            read_only: args.read_only,
            privileged: args.privileged,
            cap_add: args.cap_add.clone(),
            cap_drop: args.cap_drop.clone(),
            memory_bytes: args.memory,
            cpu_millis: args.cpus,
            pids: args.pids_limit,
        };
        let image = image(&engine, &data_dir, &args.image)?;
        let creation = Creation {
            name: args.name.clone(),
            image_name: args.image.clone(),
            wish,
            user: args.user.clone(),
            hostname: args.hostname.clone(),
            network: args.network,
            ports: args.publish.clone(),
            ephemeral,
        };
        let id = engine.create(creation, &image)?;
        Ok((engine, id))
    };
    let (engine, id) = begun().map_err(|error| Exit::saying(NOT_RUN, &error))?;
    if let Err(error) = engine.start(&id) {
        // a program that never ran leaves nothing worth looking at
        engine.remove(&id)?;
        let code = error.start_error().map_or(i32::from(NOT_RUN), trierarch_runtime::StartError::exit_code);
        return Err(Exit::saying(u8::try_from(code).unwrap_or(NOT_RUN), &error.into()));
    }
    if detach {
        println!("{id}");
        if ephemeral {
            keep(&data_dir, &id)?;
        }
        return Ok(());
    }
    let code = engine.accompany(&id);
    if ephemeral {
        engine.remove(&id)?;
    }
    Exit::with(code?)
}

/// The image by its name; pulled if it is not here: from the cluster of this data directory if one is up, else from where the name says.
fn image(engine: &Engine, data_dir: &Path, name: &str) -> anyhow::Result<Image> {
    let reference = Reference::parse(name);
    let found = match &reference {
        Ok(reference) => engine.store().get(reference)?,
        Err(_maybe_an_id) => None,
    };
    if let Some(image) = found.map_or_else(|| engine.store().find(name), |image| Ok(Some(image)))? {
        return Ok(image);
    }
    let reference = reference.with_context(|| format!("{name:?} is no image name"))?;
    eprintln!("Image {name} is not here, pulling it");
    let options = RegistryOptions { mirrors: super::image::mirrors(engine.tasks(), data_dir), ..RegistryOptions::default() };
    let pulled = engine.tasks().block_on(trierarch_images::pull(engine.store(), &reference, &options, super::image::progress()));
    pulled.with_context(|| format!("image {name:?} is not here and cannot be pulled; build it, or import it from an archive"))
}

/// Leaves a process behind that removes the container when it has ended.
fn keep(data_dir: &Path, id: &str) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run-keeper").arg("--data-dir").arg(data_dir).arg(id);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot watch the container")?;
    Ok(())
}

/// Arguments of `run-keeper`.
#[derive(clap::Args, Debug)]
pub struct KeeperArgs {
    /// Where containers are kept.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The container.
    pub id: String,
}

/// Removes a container when it has ended.
///
/// # Errors
/// When something stays.
pub fn run_keeper(args: &KeeperArgs) -> anyhow::Result<()> {
    // the terminal from which `run` was called may close
    let _leader_already = nix::unistd::setsid();
    let engine = Engine::open(&args.data_dir)?;
    while let Ok(false) = engine.ended_within(&args.id, std::time::Duration::from_secs(3600)) {}
    engine.remove(&args.id)
}

/// Arguments of `exec`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  trierarch exec -it web sh")]
pub struct ExecArgs {
    /// Where containers are kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// A variable, NAME=VALUE, or NAME to pass on (may be given several times)
    #[arg(short, long, value_parser = options::variable)]
    pub env: Vec<String>,
    /// Run as this user, NAME or ID, maybe with :GROUP
    #[arg(short, long)]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long)]
    pub workdir: Option<String>,
    /// The container: its name, its id, or the beginning of its id
    pub container: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}

/// Runs a further process in a container.
///
/// # Errors
/// [`Exit`] with the process' exit code, or why it could not be started.
pub fn run_exec(args: &ExecArgs) -> anyhow::Result<()> {
    streams::check_terminal(args.tty, args.interactive)?;
    let engine = Engine::open(&std::path::absolute(&args.data_dir)?)?;
    let container = engine.find(&args.container)?;
    let spec = trierarch_runtime::ExecSpec {
        args: args.command.clone(),
        env: args.env.iter().filter(|variable| !variable.is_empty()).cloned().collect(),
        cwd: args.workdir.clone(),
        tty: args.tty,
        stdin: args.interactive,
        ..trierarch_runtime::ExecSpec::default()
    };
    match engine.exec(&container.status.id, spec, args.user.as_deref()) {
        Ok(code) => Exit::with(code),
        Err(error) => {
            let start = error.downcast_ref::<trierarch_runtime::Error>().and_then(trierarch_runtime::Error::start_error);
            let code = start.map_or(1, trierarch_runtime::StartError::exit_code);
            Err(Exit::saying(u8::try_from(code).unwrap_or(1), &error))
        }
    }
}
