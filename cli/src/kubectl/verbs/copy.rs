//! `cp`: files to and from containers, by the `tar` in them.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::io::AsyncWriteExt as _;

use crate::kubectl::output::note;
use crate::kubectl::pods;
use crate::kubectl::remote::{self, Ask, Sink};
use crate::kubectl::session::Session;

/// Arguments of `cp`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl cp ./site web-1:/srv/site              a directory into a pod
  kubectl cp shop/web-1:/var/log/app.log app.log   a file out of a pod of another namespace
  kubectl cp -c proxy ./conf web-1:/etc/conf")]
pub struct Args {
    /// FILE or [NAMESPACE/]POD:FILE
    pub from: String,
    /// FILE or [NAMESPACE/]POD:FILE
    pub to: String,
    /// Which container
    #[arg(short, long)]
    pub container: Option<String>,
    /// Do not keep owners and modes
    #[arg(long)]
    pub no_preserve: bool,
    /// Accepted: nothing is tried again
    #[arg(long, default_value_t = 0, hide = true)]
    pub retries: i64,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Here(String),
    There { namespace: Option<String>, pod: String, path: String },
}

impl End {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let Some((pod, path)) = text.split_once(':').filter(|(pod, _)| !pod.starts_with(['.', '/'])) else {
            return Ok(Self::Here(text.to_owned()));
        };
        if path.is_empty() {
            bail!("filepath can not be empty");
        }
        let (namespace, pod) = match pod.split_once('/') {
            Some((namespace, pod)) if !pod.contains('/') => (Some(namespace.to_owned()), pod),
            Some(_) => bail!("invalid pod: {pod}, expected [namespace/]pod:file"),
            None => (None, pod),
        };
        Ok(Self::There { namespace, pod: pod.to_owned(), path: path.to_owned() })
    }
}

/// Carries it out.
///
/// # Errors
/// When either side's `tar` fails.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    match (End::parse(&args.from)?, End::parse(&args.to)?) {
        (End::Here(from), End::There { namespace, pod, path }) => {
            if !Path::new(&from).exists() {
                bail!("{from} doesn't exist in local filesystem");
            }
            let ask = prepare(session, &args, namespace, &pod).await?;
            upload(session, ask, &from, &path, args.no_preserve).await
        }
        (End::There { namespace, pod, path }, End::Here(to)) => {
            let ask = prepare(session, &args, namespace, &pod).await?;
            download(session, ask, &path, &to).await
        }
        (End::Here(_), End::Here(_)) => {
            bail!("one of src or dest must be a remote file specification")
        }
        _ => bail!("one of src or dest must be a local file specification"),
    }
}

async fn prepare(session: &Session, args: &Args, namespace: Option<String>, pod: &str) -> anyhow::Result<Ask> {
    let namespace = namespace.unwrap_or_else(|| session.namespace.clone());
    let object = session.get(&format!("/api/v1/namespaces/{namespace}/pods/{pod}")).await?;
    let container = pods::container(&object, args.container.as_deref(), false)?;
    Ok(Ask { verb: "exec", pod: pod.to_owned(), namespace, container, command: Vec::new(), stdin: false, tty: false })
}

/// The directory and the last part of a path.
fn split(path: &str) -> (String, String) {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((folder, name)) => (folder.to_owned(), name.to_owned()),
        None => (".".to_owned(), trimmed.to_owned()),
    }
}

/// Keeps what the remote process prints, to tell it when something goes wrong.
#[derive(Default)]
struct Kept {
    errors: Vec<u8>,
}

impl Sink for Kept {
    fn stdout(&mut self, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }

    fn stderr(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.errors.extend_from_slice(bytes);
        Ok(())
    }
}

async fn upload(session: &Session, ask: Ask, from: &str, to: &str, no_preserve: bool) -> anyhow::Result<()> {
    let (folder, name) = split(&std::path::absolute(from)?.to_string_lossy());
    // into a directory that exists, or under a new name
    let mut quiet = Kept::default();
    let test = Ask { command: ["test", "-d", to].map(str::to_owned).to_vec(), ..ask.clone() };
    let is_folder = to.ends_with('/') || remote::stream(session, &test, tokio::io::empty(), &mut quiet).await.is_ok();
    let (target, new_name) = if is_folder { (to.trim_end_matches('/').to_owned(), name.clone()) } else { split(to) };
    let target = if target.is_empty() { "/".to_owned() } else { target };
    // names are given to tar on this side, so that the container's tar may be a simple one
    let renamed = if new_name == name {
        None
    } else {
        Some(format!("--transform=s,^{},{},", regex::escape(&name), new_name.replace('\\', "\\\\").replace(',', "\\,").replace('&', "\\&")))
    };
    let mut command = tokio::process::Command::new("tar");
    command.args(["cf", "-", "-C", &folder]);
    command.args(renamed);
    let mut child = command.arg(&name).stdout(Stdio::piped()).stdin(Stdio::null()).spawn().context("cannot run tar")?;
    let Some(archive) = child.stdout.take() else { bail!("tar has no output") };
    let mut words = vec!["tar", "-xmf", "-"];
    if no_preserve {
        words = vec!["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-"];
    }
    words.extend(["-C", &target]);
    let unpack = Ask { command: words.into_iter().map(str::to_owned).collect(), stdin: true, ..ask };
    let mut kept = Kept::default();
    let outcome = remote::stream(session, &unpack, archive, &mut kept).await;
    let status = child.wait().await?;
    if !kept.errors.is_empty() {
        note(String::from_utf8_lossy(&kept.errors).trim_end());
    }
    outcome?;
    if !status.success() {
        bail!("tar ended with {status}");
    }
    Ok(())
}

/// Hands the archive that a container writes to a `tar` of ours.
struct Unpack {
    sender: tokio::sync::mpsc::UnboundedSender<Vec<u8>>,
    errors: Vec<u8>,
}

impl Sink for Unpack {
    fn stdout(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        // tar of ours has ended: its exit code says why
        let _ended = self.sender.send(bytes.to_vec());
        Ok(())
    }

    fn stderr(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.errors.extend_from_slice(bytes);
        Ok(())
    }
}

async fn download(session: &Session, ask: Ask, from: &str, to: &str) -> anyhow::Result<()> {
    let (folder, name) = split(from);
    let into_folder = Path::new(to).is_dir();
    // everything is unpacked beside its place first: what the container calls its files cannot lead elsewhere
    let parent =
        if into_folder { Path::new(to).to_owned() } else { std::path::absolute(to)?.parent().unwrap_or(Path::new("/")).to_owned() };
    let scratch = parent.join(format!(".kubectl-cp-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    let outcome = receive(session, ask, &folder, &name, &scratch).await.and_then(|()| {
        let target = if into_folder { Path::new(to).join(&name) } else { Path::new(to).to_owned() };
        let unpacked = scratch.join(&name);
        if target.is_dir() && unpacked.is_dir() {
            std::fs::remove_dir_all(&target)?;
        }
        std::fs::rename(&unpacked, &target).with_context(|| format!("cannot write {}", target.display()))
    });
    std::fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    outcome
}

async fn receive(session: &Session, ask: Ask, folder: &str, name: &str, scratch: &Path) -> anyhow::Result<()> {
    let mut child = tokio::process::Command::new("tar")
        .args(["xf", "-", "--no-same-owner", "-C"])
        .arg(scratch)
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let Some(mut input) = child.stdin.take() else { bail!("tar has no input") };
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    let pack = Ask { command: ["tar", "cf", "-", "-C", folder, name].map(str::to_owned).to_vec(), ..ask };
    let mut unpack = Unpack { sender, errors: Vec::new() };
    let feed = async {
        while let Some(bytes) = receiver.recv().await {
            input.write_all(&bytes).await?;
        }
        drop(input);
        anyhow::Ok(())
    };
    let take = async {
        let outcome = remote::stream(session, &pack, tokio::io::empty(), &mut unpack).await;
        let errors = String::from_utf8_lossy(&unpack.errors).trim_end().to_owned();
        // the end of the archive is the end of the channel
        drop(unpack);
        if !errors.is_empty() {
            note(errors);
        }
        outcome
    };
    let (fed, taken) = tokio::join!(feed, take);
    taken?;
    fed?;
    let status = child.wait().await?;
    if !status.success() {
        bail!("tar ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_here_or_there() {
        let there = |namespace: Option<&str>, pod: &str, path: &str| End::There {
            namespace: namespace.map(str::to_owned),
            pod: pod.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(End::parse("a/b").expect("an end"), End::Here("a/b".to_owned()));
        assert_eq!(End::parse("./a:b").expect("an end"), End::Here("./a:b".to_owned()));
        assert_eq!(End::parse("web-1:/x").expect("an end"), there(None, "web-1", "/x"));
        assert_eq!(End::parse("shop/web-1:x/y").expect("an end"), there(Some("shop"), "web-1", "x/y"));
        assert!(End::parse("web-1:").is_err() && End::parse("a/b/c:x").is_err());
        assert_eq!(split("/a/b/"), ("/a".to_owned(), "b".to_owned()));
        assert_eq!((split("/a"), split("a")), (("/".to_owned(), "a".to_owned()), (".".to_owned(), "a".to_owned())));
    }
}
