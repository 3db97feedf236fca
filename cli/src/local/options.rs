//! What a user may say about a container, and what that means for the runtime. Decisions only.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use trierarch_network::{HostPort, Protocol};
use trierarch_runtime::ContainerSpec;
use trierarch_runtime::spec::{Capabilities, Mount, Resources, RootfsSpec, Seccomp, User};

/// CFS period in microseconds (`Spec:` kernel "CFS Bandwidth Control").
const PERIOD_US: u64 = 100_000;
/// Where programs are looked for, if neither image nor user says it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `-v SOURCE:DESTINATION[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// On this machine.
    pub source: PathBuf,
    /// In the container.
    pub destination: PathBuf,
    /// Whether the container may not write.
    pub read_only: bool,
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: write SOURCE:DESTINATION or SOURCE:DESTINATION:ro");
        let parts: Vec<&str> = text.split(':').collect();
        let (source, destination, read_only) = match parts[..] {
            [source, destination] | [source, destination, "rw"] => (source, destination, false),
            [source, destination, "ro"] => (source, destination, true),
            _ => return Err(wrong()),
        };
        if source.is_empty() || !destination.starts_with('/') {
            return Err(wrong());
        }
        Ok(Self { source: source.into(), destination: destination.into(), read_only })
    }
}

/// `-p [ADDRESS:]PORT:CONTAINER_PORT[/udp]`.
///
/// # Errors
/// A text for the user.
pub fn published(text: &str) -> Result<HostPort, String> {
    let wrong = || format!("{text:?}: write PORT:CONTAINER_PORT, such as 8080:80, 127.0.0.1:8080:80 or 53:53/udp");
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return Err(wrong()),
    };
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or_else(wrong);
    let parts: Vec<&str> = ports.split(':').collect();
    match parts[..] {
        [host, container] => Ok(HostPort { host_ip: None, protocol, host_port: port(host)?, container_port: port(container)? }),
        [address, host, container] => {
            let address: Ipv4Addr = address.parse().map_err(|_no_address| wrong())?;
            Ok(HostPort { host_ip: Some(address), protocol, host_port: port(host)?, container_port: port(container)? })
        }
        _ => Err(wrong()),
    }
}

/// A published port as `ps` shows it.
pub fn show_port(port: &HostPort) -> String {
    let address = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
    format!("{address}:{}->{}/{}", port.host_port, port.container_port, port.protocol.name())
}

/// Bytes as people write them for containers: as Kubernetes does, and `512m` or `2g` for powers of 1,024.
///
/// # Errors
/// A text for the user.
pub fn memory(text: &str) -> Result<u64, String> {
    let lower = text.strip_suffix(['k', 'm', 'g', 'b']).filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    match (lower, text.chars().last()) {
        (Some(digits), Some('k')) => crate::quantity::bytes(&format!("{digits}Ki")),
        (Some(digits), Some('m')) => crate::quantity::bytes(&format!("{digits}Mi")),
        (Some(digits), Some('g')) => crate::quantity::bytes(&format!("{digits}Gi")),
        (Some(digits), _) => crate::quantity::bytes(digits),
        _ => crate::quantity::bytes(text),
    }
}

/// `NAME=VALUE`, or `NAME` for the value it has here.
///
/// # Errors
/// A text for the user.
pub fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("", _)) => Err(format!("{text:?}: write NAME=VALUE, or NAME to pass on what it is here")),
        Some(_) => Ok(text.to_owned()),
        None => Ok(std::env::var(text).map_or_else(|_unset| String::new(), |value| format!("{text}={value}"))),
    }
}

/// How a container reaches others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Network {
    /// An address of its own behind this machine's; ports can be published.
    #[default]
    Private,
    /// This machine's network.
    Host,
    /// Loopback only.
    None,
}

/// What the user asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Replaces the image's entry point, and drops its `Cmd`.
    pub entrypoint: Option<String>,
    /// Replaces the image's `Cmd`.
    pub command: Vec<String>,
    /// `NAME=VALUE`; an empty one is a variable that is not set here.
    pub env: Vec<String>,
    /// Directories and files of this machine.
    pub volumes: Vec<Volume>,
    /// Instead of the image's.
    pub workdir: Option<String>,
    /// Gives it a terminal.
    pub tty: bool,
    /// Keeps standard input open.
    pub interactive: bool,
    /// Refuses writes outside of volumes.
    pub read_only: bool,
    /// Everything that root may do here.
    pub privileged: bool,
    /// Capabilities in addition.
    pub cap_add: Vec<String>,
    /// Capabilities taken away.
    pub cap_drop: Vec<String>,
    /// Memory limit.
    pub memory_bytes: Option<u64>,
    /// CPU limit in thousandths.
    pub cpu_millis: Option<u64>,
    /// Most processes.
    pub pids: Option<i64>,
}

/// What the image says about running it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`.
    pub env: Vec<String>,
    /// `WorkingDir`.
    pub workdir: String,
    /// `StopSignal`.
    pub stop_signal: Option<String>,
}

impl ImageDefaults {
    /// Those of an image.
    pub fn of(image: &trierarch_images::Image) -> Self {
        let Some(config) = image.config.config().as_ref() else { return Self::default() };
        Self {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            workdir: config.working_dir().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone(),
        }
    }
}

fn variable_name(variable: &str) -> &str {
    variable.split('=').next().unwrap_or_default()
}

/// The number of a signal: `SIGTERM`, `TERM`, `15`.
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    nix::sys::signal::Signal::from_str(&name).ok().map(|signal| signal as i32)
}

/// The container, ready for the runtime, but for what belongs to its place on disk.
///
/// # Errors
/// A text for the user.
pub fn plan(wish: &Wish, image: &ImageDefaults, rootfs: RootfsSpec, user: User) -> Result<ContainerSpec, String> {
    let args = match &wish.entrypoint {
        Some(program) => [program.clone()].iter().filter(|program| !program.is_empty()).chain(&wish.command).cloned().collect(),
        None if wish.command.is_empty() => [image.entrypoint.clone(), image.cmd.clone()].concat(),
        None => [image.entrypoint.clone(), wish.command.clone()].concat(),
    };
    if args.is_empty() {
        return Err("the image names no program: say which one to run after the image's name".to_owned());
    }
    let given: Vec<&String> = wish.env.iter().filter(|variable| !variable.is_empty()).collect();
    let mut env: Vec<String> =
        image.env.iter().filter(|of_image| !given.iter().any(|own| variable_name(own) == variable_name(of_image))).cloned().collect();
    env.extend(given.into_iter().cloned());
    let has = |env: &[String], name: &str| env.iter().any(|variable| variable_name(variable) == name);
    if !has(&env, "PATH") {
        env.insert(0, DEFAULT_PATH.to_owned());
    }
    if wish.tty && !has(&env, "TERM") {
        env.push("TERM=xterm".to_owned());
    }
    let mounts = wish.volumes.iter().map(|volume| match volume.read_only {
        true => Mount::bind_read_only(&volume.source, &volume.destination),
        false => Mount::bind(&volume.source, &volume.destination),
    });
    Ok(ContainerSpec {
        rootfs: RootfsSpec { read_only: wish.read_only, ..rootfs },
        mounts: mounts.collect(),
        args,
        env,
        cwd: wish.workdir.clone().unwrap_or_else(|| image.workdir.clone()),
        user,
        capabilities: Capabilities::Default { add: wish.cap_add.clone(), drop: wish.cap_drop.clone() },
        seccomp: if wish.privileged { Seccomp::Unconfined } else { Seccomp::RuntimeDefault },
        privileged: wish.privileged,
        resources: Resources {
            cpu_quota_us: wish.cpu_millis.map(|millis| i64::try_from(millis * PERIOD_US / 1000).unwrap_or(i64::MAX)),
            cpu_period_us: wish.cpu_millis.map(|_| PERIOD_US),
            memory_limit_bytes: wish.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            pids_limit: wish.pids,
            ..Resources::default()
        },
        tty: wish.tty,
        stdin: wish.interactive,
        stdin_once: wish.interactive,
        stop_signal: image.stop_signal.as_deref().and_then(signal_number),
        ..ContainerSpec::default()
    })
}

/// `/etc/hosts` of a container with an address of its own.
pub fn hosts(hostname: &str, address: Option<Ipv4Addr>) -> String {
    let own = address.map_or_else(String::new, |address| format!("{address}\t{hostname}\n"));
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}")
}

/// `/etc/resolv.conf` of a container with an address of its own: name servers on this machine's loopback cannot be reached from there.
pub fn resolv_conf(machine: &str) -> String {
    let on_loopback = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver") && words.next().is_some_and(|server| server.starts_with("127.") || server == "::1")
    };
    machine.lines().filter(|line| !on_loopback(line)).map(|line| format!("{line}\n")).collect()
}

/// Whether a name may be given to a container.
pub fn name_fits(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// The one of `(id, name)` that `text` means: a name, an id, or the beginning of one id.
///
/// # Errors
/// A text for the user.
pub fn find<'a>(containers: &'a [(String, String)], text: &str) -> Result<&'a str, String> {
    if let Some((id, _)) = containers.iter().find(|(id, name)| name == text || id == text) {
        return Ok(id);
    }
    let mut begin = containers.iter().filter(|(id, _)| !text.is_empty() && id.starts_with(text));
    match (begin.next(), begin.next()) {
        (Some((id, _)), None) => Ok(id),
        (Some(_), Some(_)) => Err(format!("several containers begin with {text:?}: write more of the id")),
        (None, _) => Err(format!("no such container: {text}")),
    }
}

/// A source path made absolute; what is not there is said before anything is made.
///
/// # Errors
/// A text for the user.
pub fn existing(volume: Volume, here: &Path) -> Result<Volume, String> {
    let source = here.join(&volume.source);
    match source.exists() {
        true => Ok(Volume { source, ..volume }),
        false => Err(format!("cannot mount {}: no such file or directory", source.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageDefaults {
        ImageDefaults {
            entrypoint: vec!["/entry".to_owned()],
            cmd: vec!["serve".to_owned()],
            env: vec!["A=image".to_owned(), "B=image".to_owned()],
            workdir: "/srv".to_owned(),
            stop_signal: Some("SIGQUIT".to_owned()),
        }
    }

    fn planned(wish: &Wish) -> ContainerSpec {
        plan(wish, &image(), RootfsSpec::default(), User::default()).expect("a plan")
    }

    #[test]
    fn the_command_line_decides_what_runs() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        for (entrypoint, command, expected) in [
            (None, words(&[]), words(&["/entry", "serve"])),
            (None, words(&["ls", "-l"]), words(&["/entry", "ls", "-l"])),
            (Some("/bin/sh"), words(&["-c", "id"]), words(&["/bin/sh", "-c", "id"])),
            (Some("/bin/sh"), words(&[]), words(&["/bin/sh"])),
            (Some(""), words(&["id"]), words(&["id"])),
        ] {
            let wish = Wish { entrypoint: entrypoint.map(str::to_owned), command, ..Wish::default() };
            assert_eq!(planned(&wish).args, expected, "{wish:?}");
        }
        assert!(plan(&Wish::default(), &ImageDefaults::default(), RootfsSpec::default(), User::default()).is_err());
    }

    #[test]
    fn what_the_user_says_wins_over_the_image() {
        let spec = planned(&Wish {
            env: vec!["B=user".to_owned(), String::new()],
            tty: true,
            memory_bytes: Some(64 << 20),
            cpu_millis: Some(500),
            ..Wish::default()
        });
        assert_eq!(spec.env, [DEFAULT_PATH, "A=image", "B=user", "TERM=xterm"]);
        assert_eq!((spec.cwd.as_str(), spec.stop_signal), ("/srv", Some(3)));
        assert_eq!((spec.resources.cpu_quota_us, spec.resources.memory_limit_bytes), (Some(50_000), Some(64 << 20)));
        assert_eq!(planned(&Wish { workdir: Some("/".to_owned()), ..Wish::default() }).cwd, "/");
    }

    #[test]
    fn ports_volumes_and_amounts_read_as_people_write_them() {
        let port = |text: &str| published(text).map(|port| show_port(&port));
        assert_eq!(port("8080:80").as_deref(), Ok("0.0.0.0:8080->80/tcp"));
        assert_eq!(port("127.0.0.1:53:5353/udp").as_deref(), Ok("127.0.0.1:53->5353/udp"));
        for bad in ["80", "0:80", "a:80", "80:80/sctp", "1.2.3:80:80", "70000:80", "1:2:3:4"] {
            assert!(published(bad).is_err(), "{bad}");
        }
        let volume: Volume = "/srv:/data:ro".parse().expect("a volume");
        assert_eq!((volume.source.to_str(), volume.destination.to_str(), volume.read_only), (Some("/srv"), Some("/data"), true));
        for bad in ["/srv", "/srv:data", ":/data", "/srv:/data:rx"] {
            assert!(bad.parse::<Volume>().is_err(), "{bad}");
        }
        assert_eq!((memory("64m"), memory("1g"), memory("64Mi"), memory("100")), (Ok(64 << 20), Ok(1 << 30), Ok(64 << 20), Ok(100)));
        assert!(memory("m").is_err() && memory("lots").is_err());
        assert_eq!(
            (signal_number("term"), signal_number("SIGINT"), signal_number("9"), signal_number("x")),
            (Some(15), Some(2), Some(9), None)
        );
    }

    #[test]
    fn containers_are_found_by_name_id_or_its_beginning() {
        let all = [("abc123", "web"), ("abd456", "db")].map(|(id, name)| (id.to_owned(), name.to_owned()));
        assert_eq!(find(&all, "web"), Ok("abc123"));
        assert_eq!(find(&all, "abd"), Ok("abd456"));
        assert!(find(&all, "ab").is_err_and(|text| text.contains("several")));
        assert_eq!(find(&all, "x"), Err("no such container: x".to_owned()));
        assert!(find(&all, "").is_err());
    }

    #[test]
    fn loopback_name_servers_are_left_out() {
        assert_eq!(resolv_conf("search a\nnameserver 127.0.0.53\nnameserver 10.0.0.1\n"), "search a\nnameserver 10.0.0.1\n");
        assert!(hosts("web", Some(Ipv4Addr::new(10, 89, 0, 2))).ends_with("10.89.0.2\tweb\n"));
    }

    #[test]
    fn names_are_plain() {
        assert!(name_fits("web-1.a_b") && !name_fits("") && !name_fits("-a") && !name_fits("a/b") && !name_fits(&"a".repeat(64)));
    }
}
