//! Real containers of a static busybox. Needs root; cleans up after itself.

#![expect(clippy::unwrap_used, reason = "a test that can not go on panics")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use trierarch_runtime::spec::{
    Capabilities, IdMapping, LogRotation, Mount, MountKind, NetworkMode, Propagation, ReadOnly, Resources, Rlimit, RootfsSpec, Seccomp,
    TerminalSize, User, UserNamespace,
};
use trierarch_runtime::{
    ContainerSpec, ContainerState, ExecSpec, ExitStatus, Runtime, RuntimeConfig, RuntimeEvent, SandboxSpec, SandboxState,
};

/// What is not there by then will not come, on a machine that is busy or emulated too.
const LONG: Duration = Duration::from_secs(120);

/// A runtime of its own in a temporary directory, with one sandbox "pod" when asked for.
struct World {
    runtime: Runtime,
    dir: tempfile::TempDir,
    parent: String,
    rootfs: PathBuf,
    next: AtomicU32,
}

impl World {
    fn new() -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("tritest").tempdir().unwrap();
        let rootfs = dir.path().join("image");
        for name in ["bin", "etc", "tmp", "root", "home/web"] {
            std::fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        std::fs::set_permissions(rootfs.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "echo", "id", "ls", "sleep", "hostname", "env", "mount", "mkdir", "stty", "ps", "kill", "touch", "head", "grep",
            "wc", "tty", "ulimit", "nproc", "dd", "readlink", "chroot", "unshare", "true", "seq", "tr",
        ] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/home/web:/bin/sh\n").unwrap();
        std::fs::write(rootfs.join("etc/group"), "root:x:0:\nlogs:x:7:web\n").unwrap();
        std::fs::write(rootfs.join("etc/plain"), "not executable").unwrap();
        let parent = format!("tritest-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let runtime = Self::open(dir.path(), &parent);
        World { runtime, dir, parent, rootfs, next: AtomicU32::new(0) }
    }

    fn open(dir: &Path, parent: &str) -> Runtime {
        Runtime::new(RuntimeConfig { root_dir: dir.join("state"), cgroup_parent: parent.to_owned(), sys: trierarch_runtime::sys::linux() })
            .unwrap()
    }

    fn with_pod() -> World {
        let world = World::new();
        world.runtime.create_sandbox(world.pod()).unwrap();
        world
    }

    fn pod(&self) -> SandboxSpec {
        SandboxSpec { id: "pod".into(), hostname: "box".into(), log_dir: self.dir.path().join("logs"), ..SandboxSpec::default() }
    }

    fn spec(&self, args: &[&str]) -> ContainerSpec {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let layers = self.dir.path().join(format!("layers/{n}"));
        ContainerSpec {
            id: format!("c{n}"),
            rootfs: RootfsSpec::overlay(vec![self.rootfs.clone()], layers.join("upper"), layers.join("work")),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            log_path: format!("c{n}.log").into(),
            ..ContainerSpec::default()
        }
    }

    fn sh(&self, script: &str) -> ContainerSpec {
        // One stream, because nobody promises an order between two.
        self.spec(&["sh", "-c", &format!("exec 2>&1; {script}")])
    }

    fn start(&self, spec: ContainerSpec) -> String {
        let id = spec.id.clone();
        self.runtime.create_container("pod", spec).unwrap();
        self.runtime.start_container(&id).unwrap();
        id
    }

    /// Runs to the end: output (both streams, in the order of the log) and exit.
    fn run(&self, spec: ContainerSpec) -> (String, ExitStatus) {
        let id = self.start(spec);
        let exit = self.runtime.wait_container(&id, Some(LONG)).unwrap().expect("the container ends");
        (self.log(&id), exit)
    }

    fn output(&self, script: &str) -> String {
        self.run(self.sh(script)).0
    }

    fn raw_log(&self, id: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("logs/{id}.log"))).unwrap()
    }

    fn log(&self, id: &str) -> String {
        let mut text = String::new();
        for line in self.raw_log(id).split_terminator('\n') {
            let parts: Vec<&str> = line.splitn(4, ' ').collect();
            text.push_str(parts[3]);
            if parts[2] == "F" {
                text.push('\n');
            }
        }
        text
    }

    fn sleeper(&self) -> String {
        self.start(self.spec(&["sleep", "1000"]))
    }

    fn exec(&self, id: &str, args: &[&str]) -> (String, i32) {
        let done = self.runtime.exec_sync(id, ExecSpec::command(args.iter().copied()), Some(LONG), 1 << 20).unwrap();
        (String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap(), done.exit_code)
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            found.extend(Some(hierarchy.path().join(&self.parent)).filter(|dir| dir.exists()));
        }
        found.extend(Some(Path::new("/sys/fs/cgroup").join(&self.parent)).filter(|dir| dir.exists()));
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let purged = self.runtime.purge();
        if !std::thread::panicking() {
            purged.unwrap();
            assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        }
    }
}

fn read(fd: OwnedFd) -> String {
    let mut bytes = Vec::new();
    let _ = std::fs::File::from(fd).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn args_env_cwd_and_exit_code_arrive() {
    let world = World::with_pod();
    let mut spec = world.sh("echo $A-$PATH-$HOME; /bin/busybox pwd; exit 7");
    spec.env = vec!["A=1".into(), "A=2".into()];
    spec.cwd = "/made/by/runtime".into();
    let (text, exit) = world.run(spec);
    assert_eq!(world.output("echo $HOSTNAME"), "box\n");
    assert_eq!(text, "2-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin-/root\n/made/by/runtime\n");
    assert_eq!((exit.code, exit.signal, exit.oom_killed, exit.lost), (7, None, false, false));
}

#[test]
fn each_container_is_pid_1_of_its_own_namespace() {
    let world = World::with_pod();
    assert_eq!(world.output("echo $$; hostname"), "1\nbox\n");
    assert_eq!(world.output("echo /proc/[0-9]*"), "/proc/1\n");
}

#[test]
fn users_and_groups_are_taken() {
    let world = World::with_pod();
    let mut spec = world.sh("id; echo $HOME; touch /root/x; echo hello > /dev/stdout");
    spec.user = User { uid: 101, gid: 102, additional_gids: vec![7, 102] };
    let (text, _) = world.run(spec);
    assert!(text.starts_with("uid=101(web) gid=102 groups=7(logs),102\n/home/web\n"), "{text}");
    assert!(text.contains("Permission denied") || text.contains("touch"), "{text}");
    assert!(text.ends_with("hello\n"), "{text}");
}

#[test]
fn missing_programs_are_reported_as_oci_runtimes_do() {
    let world = World::with_pod();
    let failed = |args: &[&str]| {
        let spec = world.spec(args);
        let id = spec.id.clone();
        world.runtime.create_container("pod", spec).unwrap();
        let error = world.runtime.start_container(&id).unwrap_err();
        let status = world.runtime.container(&id).unwrap();
        assert_eq!(status.state, ContainerState::Exited);
        (error.to_string(), status.exit.unwrap().code)
    };
    assert_eq!(failed(&["nonsense"]), ("exec: \"nonsense\": executable file not found in $PATH".to_owned(), 127));
    assert_eq!(failed(&["/bin/nonsense"]), ("exec: \"/bin/nonsense\": stat /bin/nonsense: no such file or directory".to_owned(), 127));
    assert_eq!(failed(&["/etc/plain"]), ("exec: \"/etc/plain\": permission denied".to_owned(), 126));
    assert_eq!(failed(&["/etc"]), ("exec: \"/etc\": is a directory".to_owned(), 126));
}

#[test]
fn signals_end_a_container_in_time_or_hard() {
    let world = World::with_pod();
    let polite = world.start(world.sh("trap 'exit 3' TERM; echo ready; while true; do sleep 0.05; done"));
    wait_for(|| world.log(&polite).contains("ready"));
    world.runtime.stop_container(&polite, None, LONG).unwrap();
    assert_eq!(world.runtime.container(&polite).unwrap().exit.unwrap().code, 3);
    let stubborn = world.sleeper();
    world.runtime.stop_container(&stubborn, None, Duration::from_millis(50)).unwrap();
    let exit = world.runtime.container(&stubborn).unwrap().exit.unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
}

/// Waits for a condition that has no event.
#[expect(clippy::disallowed_methods, reason = "a log file has no event to wait for")]
fn wait_for(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + LONG;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn exits_are_told_and_kept() {
    let world = World::with_pod();
    let events = world.runtime.events();
    let id = world.start(world.sh("exit 5"));
    let ended = loop {
        match events.recv_timeout(LONG).unwrap() {
            RuntimeEvent::ContainerExited { container_id, exit, .. } => break (container_id, exit.code),
            _ => continue,
        }
    };
    assert_eq!(ended, (id.clone(), 5));
    let again = World::open(world.dir.path(), &world.parent);
    assert_eq!(again.container(&id).unwrap().exit.unwrap().code, 5);
}

#[test]
fn the_memory_limit_kills_and_is_told() {
    let world = World::with_pod();
    let mut spec = world.sh("head -c 200000000 /dev/zero | tr '\\0' x | busybox sort > /dev/null; exit 4");
    spec.args = vec![
        "sh".into(),
        "-c".into(),
        "exec busybox awk 'BEGIN { while (1) s = s \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\" s }'".into(),
    ];
    spec.resources = Resources { memory_limit_bytes: Some(16 << 20), ..Resources::default() };
    let (_, exit) = world.run(spec);
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.code, 137);
}

#[test]
fn limits_reach_the_kernel() {
    let world = World::with_pod();
    let mut spec = world.sh("ulimit -n; ulimit -Hc; sh -c 'while true; do sleep 500 & done'; exec sleep 1000");
    spec.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 100, hard: 200 }, Rlimit { kind: "core".into(), soft: 0, hard: 0 }];
    spec.resources = Resources {
        pids_limit: Some(8),
        cpu_shares: Some(512),
        cpu_quota_us: Some(20_000),
        cpu_period_us: Some(100_000),
        memory_limit_bytes: Some(64 << 20),
        ..Resources::default()
    };
    let id = world.start(spec);
    wait_for(|| world.log(&id).contains("fork"));
    assert!(world.log(&id).starts_with("100\n0\n"), "{}", world.log(&id));
    let stats = world.runtime.container_stats(&id).unwrap();
    assert!(stats.pids > 1 && stats.pids <= 8, "{stats:?}");
    assert_eq!(stats.memory_limit_bytes, Some(64 << 20));
    assert!(stats.cpu_usage_ns > 0 && stats.memory_usage_bytes > 0, "{stats:?}");
    world.runtime.update_container_resources(&id, &Resources { memory_limit_bytes: Some(128 << 20), ..Resources::default() }).unwrap();
    assert_eq!(world.runtime.container_stats(&id).unwrap().memory_limit_bytes, Some(128 << 20));
    assert!(world.runtime.sandbox_stats("pod").unwrap().memory_usage_bytes > 0);
    world.runtime.update_container_resources(&id, &Resources { cpuset_cpus: Some("0".into()), ..Resources::default() }).unwrap();
    let pid = world.runtime.container(&id).unwrap().pid.unwrap();
    assert!(std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("Cpus_allowed_list:\t0\n"));
}

#[test]
fn exec_runs_beside_the_first_process() {
    let world = World::with_pod();
    assert_eq!(world.output("cat /proc/self/oom_score_adj"), std::fs::read_to_string("/proc/self/oom_score_adj").unwrap());
    let mut spec = world.spec(&["sleep", "1000"]);
    spec.env = vec!["A=container".into()];
    spec.cwd = "/tmp".into();
    let id = world.start(spec);
    assert_eq!(
        world.exec(&id, &["sh", "-c", "echo $A; busybox pwd; hostname; echo oops >&2; exit 9"]),
        ("container\n/tmp\nbox\noops\n".into(), 9)
    );
    let missing = world.runtime.exec(&id, ExecSpec::command(["nope"])).unwrap_err();
    assert_eq!(missing.to_string(), "exec: \"nope\": executable file not found in $PATH");
    let slow = world.runtime.exec_sync(&id, ExecSpec::command(["sleep", "1000"]), Some(Duration::from_millis(100)), 100).unwrap_err();
    assert!(matches!(slow, trierarch_runtime::Error::Timeout { .. }), "{slow}");
    // The killed process is gone.
    wait_for(|| world.exec(&id, &["ps"]).0.matches("sleep 1000").count() == 1);
}

#[test]
fn exec_passes_input_on() {
    let world = World::with_pod();
    let id = world.sleeper();
    let mut handle = world.runtime.exec(&id, ExecSpec { stdin: true, ..ExecSpec::command(["cat"]) }).unwrap();
    let mut stdin = std::fs::File::from(handle.stdin.take().unwrap());
    let writer = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 300_000]));
    let text = read(handle.stdout.take().unwrap());
    writer.join().unwrap().unwrap();
    assert!(text.bytes().all(|byte| byte == b'x') && text.len() == 300_000);
    assert_eq!(handle.wait().unwrap().code, 0);
}

#[test]
fn exec_with_a_terminal() {
    let world = World::with_pod();
    let id = world.sleeper();
    let spec = ExecSpec {
        tty: true,
        terminal_size: Some(TerminalSize { width: 91, height: 33 }),
        ..ExecSpec::command(["sh", "-c", "tty; stty size; read line; stty size; echo $TERM"])
    };
    let handle = world.runtime.exec(&id, spec).unwrap();
    let mut terminal = std::fs::File::from(handle.terminal.as_ref().unwrap().try_clone().unwrap());
    handle.control().resize(TerminalSize { width: 100, height: 44 }).unwrap();
    terminal.write_all(b"\n").unwrap();
    let text = read(terminal.into());
    // The terminal echoes the input, at whatever moment it comes.
    assert!(text.contains("/dev/pts/0\r\n"), "{text:?}");
    assert!(text.contains("44 100\r\n") && text.ends_with("xterm\r\n"), "{text:?}");
    assert_eq!(handle.wait().unwrap().code, 0);
}

#[test]
fn attach_talks_to_the_first_process() {
    let world = World::with_pod();
    let mut spec = world.sh("while read line; do echo got $line; done; echo end");
    spec.stdin = true;
    spec.stdin_once = true;
    let id = world.start(spec);
    let mut handle = world.runtime.attach(&id, true, true, true).unwrap();
    let mut stdin = std::fs::File::from(handle.stdin.take().unwrap());
    stdin.write_all(b"one\ntwo\n").unwrap();
    drop(stdin);
    assert_eq!(read(handle.stdout.take().unwrap()), "got one\ngot two\nend\n");
    assert_eq!(world.runtime.wait_container(&id, Some(LONG)).unwrap().unwrap().code, 0);
    assert_eq!(world.log(&id), "got one\ngot two\nend\n");
}

#[test]
fn a_container_with_a_terminal() {
    let world = World::with_pod();
    let mut spec = world.sh("tty; read line; echo $line; stty size; ls -l /dev/console | head -c 1");
    spec.tty = true;
    spec.stdin = true;
    let id = world.start(spec);
    let mut handle = world.runtime.attach(&id, true, true, false).unwrap();
    world.runtime.resize_tty(&id, TerminalSize { width: 77, height: 22 }).unwrap();
    let mut stdin = std::fs::File::from(handle.stdin.take().unwrap());
    stdin.write_all(b"hi\n").unwrap();
    assert_eq!(world.runtime.wait_container(&id, Some(LONG)).unwrap().unwrap().code, 0);
    let text = world.log(&id);
    assert!(text.contains("/dev/pts/0\r\n") && text.contains("22 77\r\n") && text.ends_with('c'), "{text:?}");
}

#[test]
fn logs_have_the_cri_format_and_rotate() {
    let world = World::with_pod();
    let mut spec = world.spec(&["sh", "-c", "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' y; echo; busybox printf rest"]);
    spec.log_rotation = LogRotation { max_size_bytes: 0, max_files: 1 };
    let (_, _) = world.run(spec);
    let raw = world.raw_log("c0");
    let mut tags: Vec<String> = raw.lines().map(|line| line.splitn(4, ' ').skip(1).take(2).collect::<Vec<_>>().join(" ")).collect();
    let stamp = raw.split(' ').next().unwrap();
    assert!(stamp.len() == 30 && stamp.ends_with('Z') && stamp.as_bytes()[10] == b'T', "{stamp}");
    tags.sort();
    assert_eq!(tags, ["stderr F", "stdout F", "stdout F", "stdout P", "stdout P"]);
    assert!(raw.lines().all(|line| line.len() < 17_000));

    let mut spec = world.sh("for i in $(seq 2000); do echo line $i; done");
    spec.log_rotation = LogRotation { max_size_bytes: 20_000, max_files: 3 };
    let id = world.start(spec);
    world.runtime.wait_container(&id, Some(LONG)).unwrap().unwrap();
    let files = std::fs::read_dir(world.dir.path().join("logs"))
        .unwrap()
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().starts_with("c1.log"))
        .count();
    assert!((2..=3).contains(&files), "{files} files");
}

#[test]
fn containers_of_a_pod_share_processes_when_asked() {
    let world = World::new();
    world.runtime.create_sandbox(SandboxSpec { share_process_namespace: true, ..world.pod() }).unwrap();
    let sleeper = world.sleeper();
    let text = world.output("ps; readlink /proc/1/root");
    assert!(text.contains("/pause") && text.contains("sleep 1000"), "{text}");
    assert!(world.exec(&sleeper, &["ps"]).0.contains("/pause"));
    // What a container leaves behind does not outlive it.
    let (_, exit) = world.run(world.sh("sleep 2000 & exit 6"));
    assert_eq!(exit.code, 6);
    wait_for(|| !world.exec(&sleeper, &["ps"]).0.contains("sleep 2000"));
}

#[test]
fn a_container_joins_the_processes_of_another() {
    let world = World::with_pod();
    let target = world.start(world.spec(&["sleep", "1000"]));
    let (seen, exit) = world.run(ContainerSpec { processes_of: Some(target.clone()), ..world.sh("ps") });
    assert!(seen.contains("sleep 1000"), "{seen}");
    assert_eq!(exit.code, 0);
    // The end of the guest is not the end of its host.
    assert_eq!(world.runtime.container(&target).unwrap().state, ContainerState::Running);
    let lost = ContainerSpec { processes_of: Some("nobody".into()), ..world.sh("ps") };
    let id = lost.id.clone();
    world.runtime.create_container("pod", lost).unwrap();
    assert!(world.runtime.start_container(&id).unwrap_err().to_string().contains("nobody"));
}

#[test]
fn containers_of_a_pod_share_memory_network_and_names() {
    let world = World::with_pod();
    let sleeper = world.sleeper();
    assert_eq!(
        world.output("echo shared > /dev/shm/file; readlink /proc/self/ns/net").trim(),
        world.exec(&sleeper, &["readlink", "/proc/self/ns/net"]).0.trim()
    );
    assert_eq!(world.exec(&sleeper, &["cat", "/dev/shm/file"]).0, "shared\n");
    assert!(world.exec(&sleeper, &["busybox", "ip", "addr"]).0.contains("127.0.0.1"));
    let status = world.runtime.sandbox("pod").unwrap();
    let seen = std::fs::read_link(status.netns_path.unwrap()).unwrap();
    assert_eq!(world.exec(&sleeper, &["readlink", "/proc/self/ns/net"]).0.trim(), seen.to_str().unwrap());
    assert_ne!(seen, std::fs::read_link("/proc/self/ns/net").unwrap());
    assert!(world.runtime.netns("pod").unwrap().is_some());
}

#[test]
fn host_network_and_processes() {
    let world = World::new();
    world
        .runtime
        .create_sandbox(SandboxSpec { network: NetworkMode::Host, hostname: String::new(), host_pid: true, host_ipc: true, ..world.pod() })
        .unwrap();
    let host = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned();
    let text = world.output("for n in net pid ipc uts; do readlink /proc/self/ns/$n; done");
    assert_eq!(text.lines().collect::<Vec<_>>(), [host("net"), host("pid"), host("ipc"), host("uts")]);
    assert_eq!(world.runtime.sandbox("pod").unwrap().netns_path, None);
    // Orphans of a container in the host's PID namespace end with it.
    let id = world.start(world.sh("sleep 3210 & exit 0"));
    world.runtime.wait_container(&id, Some(LONG)).unwrap().unwrap();
    wait_for(|| !every_command().iter().any(|command| command.contains("sleep 3210")));
}

fn every_command() -> Vec<String> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|pid| std::fs::read(pid.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .collect()
}

#[test]
fn the_standard_file_tree_is_there_and_hides_the_host() {
    let world = World::with_pod();
    let text = world.output("for f in null zero full random urandom tty fd stdin stdout stderr ptmx shm mqueue pts; do [ -e /dev/$f ] || echo missing $f; done; cat /proc/kcore | wc -c; ls /proc/acpi /sys/firmware | wc -w; echo x > /proc/sys/kernel/domainname || echo ro; mkdir /sys/x || echo ro; ls / | tr '\\n' ' '");
    assert!(!text.contains("missing"), "{text}");
    assert_eq!(text.matches("ro\n").count(), 2, "{text}");
    assert!(text.contains("\n0\n") || text.starts_with("0\n"), "{text}");
    assert!(text.ends_with("bin dev etc home proc root sys tmp "), "{text}");
    let cgroup = world.output("ls /sys/fs/cgroup | wc -l; cat /proc/self/cgroup");
    assert!(!cgroup.contains(&world.parent), "{cgroup}");
}

#[test]
fn read_only_roots_and_mounts() {
    let world = World::with_pod();
    let data = world.dir.path().join("data");
    std::fs::create_dir_all(data.join("sub/deep")).unwrap();
    std::fs::write(data.join("sub/deep/file"), "content").unwrap();
    std::os::unix::fs::symlink("/etc", data.join("escape")).unwrap();
    let mut spec = world
        .sh("touch /x || echo ro; touch /rw/x && echo rw; touch /ro/y || echo ro; cat /deep; touch /scratch/z && echo tmp; cat /etc/hosts");
    std::fs::write(world.dir.path().join("hosts"), "hosts").unwrap();
    spec.rootfs.read_only = true;
    spec.mounts = vec![
        Mount::bind(&data, "/rw"),
        Mount::bind_read_only(&data, "/ro"),
        Mount::bind(&data, "/deep").with_subpath("sub/deep/file"),
        Mount::tmpfs("/scratch", Some(1 << 20)),
        Mount::bind(world.dir.path().join("hosts"), "/etc/hosts"),
    ];
    let (text, _) = world.run(spec);
    assert_eq!(
        text.replace("touch: /x: Read-only file system\n", "").replace("touch: /ro/y: Read-only file system\n", ""),
        "ro\nrw\nro\ncontenttmp\nhosts"
    );
    let mut spec = world.sh("true");
    spec.mounts = vec![Mount::bind(&data, "/e").with_subpath("escape")];
    let id = spec.id.clone();
    world.runtime.create_container("pod", spec).unwrap();
    assert!(world.runtime.start_container(&id).is_err());
}

#[test]
fn links_in_the_image_do_not_lead_out() {
    let world = World::with_pod();
    let victim = world.dir.path().join("victim");
    std::fs::create_dir_all(&victim).unwrap();
    std::os::unix::fs::symlink(&victim, world.rootfs.join("link")).unwrap();
    let mut spec = world.sh("touch /link/made && ls /link");
    spec.mounts = vec![Mount::tmpfs("/link/sub", None)];
    world.run(spec);
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
}

#[test]
fn mounts_travel_when_asked() {
    let world = World::with_pod();
    let shared = world.dir.path().join("shared");
    std::fs::create_dir_all(shared.join("in")).unwrap();
    let mount = |args: &[&str]| assert!(std::process::Command::new("/bin/busybox").arg("mount").args(args).status().unwrap().success());
    mount(&["-t", "tmpfs", "tritest", shared.to_str().unwrap()]);
    mount(&["--make-shared", shared.to_str().unwrap()]);
    std::fs::create_dir_all(shared.join("in")).unwrap();
    std::fs::create_dir_all(shared.join("out")).unwrap();
    let both = |propagation| Mount {
        destination: "/s".into(),
        kind: MountKind::Bind {
            source: shared.clone(),
            subpath: None,
            recursive: true,
            read_only: ReadOnly::No,
            propagation,
            flags: Default::default(),
        },
    };
    let mut spec = world.spec(&["sleep", "1000"]);
    spec.privileged = true;
    spec.mounts = vec![both(Propagation::Bidirectional)];
    let giver = world.start(spec);
    let mut spec = world.spec(&["sleep", "1000"]);
    spec.mounts = vec![both(Propagation::HostToContainer)];
    let taker = world.start(spec);
    let mut spec = world.spec(&["sleep", "1000"]);
    spec.mounts = vec![both(Propagation::Private)];
    let outsider = world.start(spec);
    assert_eq!(world.exec(&giver, &["mount", "-t", "tmpfs", "x", "/s/in"]), (String::new(), 0));
    assert_eq!(world.exec(&giver, &["touch", "/s/in/flag"]), (String::new(), 0));
    assert!(shared.join("in/flag").exists());
    assert_eq!(world.exec(&taker, &["ls", "/s/in"]).0, "flag\n");
    assert_eq!(world.exec(&outsider, &["ls", "/s/in"]).0, "");
    for dir in ["in", ""] {
        let umount = std::process::Command::new("/bin/busybox").args(["umount", shared.join(dir).to_str().unwrap()]).status().unwrap();
        assert!(umount.success());
    }
}

#[test]
fn capabilities_and_filters() {
    let world = World::with_pod();
    let caps = |spec: ContainerSpec| world.run(spec).0.lines().find_map(|line| line.strip_prefix("CapEff:\t").map(str::to_owned)).unwrap();
    let status = || world.sh("cat /proc/self/status");
    assert_eq!(caps(status()), "00000000a80425fb");
    let mut spec = status();
    spec.capabilities = Capabilities::Default { add: vec!["NET_ADMIN".into()], drop: vec!["ALL".into()] };
    assert_eq!(caps(spec), "0000000000001000");
    let mut spec = status();
    spec.user.uid = 101;
    assert_eq!(caps(spec), "0000000000000000");
    let mut spec = world.sh("grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; unshare -m true; mkdir /tmp/d && echo made");
    spec.no_new_privileges = true;
    spec.seccomp = Seccomp::RuntimeDefault;
    spec.capabilities = Capabilities::Default { add: vec![], drop: vec![] };
    let (text, exit) = world.run(spec);
    assert!(
        text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2") && text.contains("ermitted") && text.ends_with("made\n"),
        "{text}"
    );
    assert_eq!(exit.code, 0);
    let mut spec = world.sh("mkdir /tmp/d || echo refused; echo on");
    spec.seccomp = Seccomp::Profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#.into(),
    );
    assert!(world.run(spec).0.ends_with("refused\non\n"));
}

#[test]
fn privileged_containers_have_everything() {
    let world = World::with_pod();
    let mut spec = world.sh("mount -t tmpfs x /tmp && echo mounted; touch /sys/fs/cgroup/x; [ -e /dev/mem ] || [ -e /dev/kmsg ] && echo devices; readlink /proc/self/ns/cgroup | wc -c; grep Seccomp: /proc/self/status");
    spec.privileged = true;
    spec.seccomp = Seccomp::RuntimeDefault;
    let (text, _) = world.run(spec);
    assert!(text.contains("mounted\n") && text.contains("devices\n") && text.contains("Seccomp:\t0"), "{text}");
}

#[test]
fn sysctls_belong_to_the_pod() {
    let world = World::new();
    let sysctls = [("net.ipv4.ip_unprivileged_port_start", "7"), ("kernel.shm_rmid_forced", "1")];
    let sysctls = sysctls.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    world.runtime.create_sandbox(SandboxSpec { sysctls, ..world.pod() }).unwrap();
    assert_eq!(world.output("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"), "7\n1\n");
    let wrong = SandboxSpec { id: "wrong".into(), sysctls: [("net.nonsense".to_owned(), "1".to_owned())].into(), ..world.pod() };
    assert!(world.runtime.create_sandbox(wrong).is_err());
    assert!(world.runtime.sandbox("wrong").is_err());
}

#[test]
fn pods_outlive_the_agent() {
    let world = World::with_pod();
    let id = world.start(world.sh("i=0; while [ $i -lt 400 ]; do echo tick $i; i=$((i+1)); sleep 0.005; done; exit 11"));
    let before = world.runtime.container(&id).unwrap();
    let shim = world.runtime.sandbox("pod").unwrap().shim_pid;
    // Another runtime on the same state is what a restarted agent is: the first one has no part in what follows.
    let again = World::open(world.dir.path(), &world.parent);
    let after = again.container(&id).unwrap();
    assert_eq!((after.pid, after.started_at, after.state), (before.pid, before.started_at, ContainerState::Running));
    assert_eq!(again.sandbox("pod").unwrap().shim_pid, shim);
    assert_eq!(again.exec_sync(&id, ExecSpec::command(["echo", "alive"]), Some(LONG), 100).unwrap().stdout, b"alive\n");
    assert_eq!(again.wait_container(&id, Some(LONG)).unwrap().unwrap().code, 11);
    let expected: String = (0..400).map(|i| format!("tick {i}\n")).collect();
    assert_eq!(world.log(&id), expected);
}

#[test]
fn a_dead_shim_takes_its_pod_along() {
    let world = World::with_pod();
    let events = world.runtime.events();
    let id = world.sleeper();
    let pid = world.runtime.container(&id).unwrap().pid.unwrap();
    let shim = world.runtime.sandbox("pod").unwrap().shim_pid.unwrap();
    std::process::Command::new("/bin/busybox").args(["kill", "-9", &shim.to_string()]).status().unwrap();
    let exit = world.runtime.wait_container(&id, Some(LONG)).unwrap().unwrap();
    assert!(exit.lost && exit.code == 255);
    assert_eq!(world.runtime.sandbox("pod").unwrap().state, SandboxState::NotReady);
    wait_for(|| !Path::new(&format!("/proc/{pid}/ns/net")).exists());
    let lost = RuntimeEvent::SandboxLost { sandbox_id: "pod".into() };
    assert!(std::iter::from_fn(|| events.recv_timeout(LONG).ok()).any(|event| event == lost));
}

#[test]
fn a_dead_pause_process_ends_the_pod() {
    let world = World::new();
    world.runtime.create_sandbox(SandboxSpec { share_process_namespace: true, ..world.pod() }).unwrap();
    let events = world.runtime.events();
    let id = world.sleeper();
    let shim = world.runtime.sandbox("pod").unwrap().shim_pid.unwrap();
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    let is_pause = |pid: &&str| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"/pause");
    let pause = children.split_whitespace().find(is_pause).unwrap();
    std::process::Command::new("/bin/busybox").args(["kill", "-9", pause]).status().unwrap();
    assert_eq!(world.runtime.wait_container(&id, Some(LONG)).unwrap().unwrap().code, 137);
    let lost = RuntimeEvent::SandboxLost { sandbox_id: "pod".into() };
    assert!(std::iter::from_fn(|| events.recv_timeout(LONG).ok()).any(|event| event == lost));
}

#[test]
fn nothing_is_left_behind() {
    let world = World::new();
    let mounts = || {
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .filter(|line| line.contains(world.dir.path().to_str().unwrap()))
            .count()
    };
    world.runtime.create_sandbox(world.pod()).unwrap();
    let shim = world.runtime.sandbox("pod").unwrap().shim_pid.unwrap();
    let id = world.sleeper();
    let pid = world.runtime.container(&id).unwrap().pid.unwrap();
    assert_eq!(mounts(), 0, "mounts belong to the container's namespace");
    let other = world.sleeper();
    world.runtime.remove_container(&other).unwrap();
    assert!(world.runtime.container(&other).is_err());
    world.runtime.stop_sandbox("pod").unwrap();
    world.runtime.stop_sandbox("pod").unwrap();
    assert_eq!(world.runtime.container(&id).unwrap().exit.unwrap().code, 137);
    world.runtime.remove_sandbox("pod").unwrap();
    world.runtime.remove_sandbox("pod").unwrap();
    for gone in [shim, pid] {
        assert!(!Path::new(&format!("/proc/{gone}")).exists());
    }
    assert_eq!(std::fs::read_dir(world.dir.path().join("state")).unwrap().count(), 0);
    assert!(
        world
            .cgroups()
            .iter()
            .all(|dir| std::fs::read_dir(dir.join("pods")).is_ok_and(|mut pods| !pods.any(|pod| pod.unwrap().path().is_dir())))
    );
}

#[test]
fn the_shim_is_small() {
    let world = World::with_pod();
    world.sleeper();
    // The program is one file in memory for all shims of an agent: only with a second one does the kernel count it as shared.
    world.runtime.create_sandbox(SandboxSpec { id: "other".into(), ..world.pod() }).unwrap();
    let shim = world.runtime.sandbox("pod").unwrap().shim_pid.unwrap();
    let text = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let kib =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap();
    let private = kib("Private_Dirty:") + kib("Private_Clean:");
    assert!(private <= 512, "{private} KiB\n{text}");
}

#[test]
fn links_that_point_at_nothing_are_filled_inside() {
    let world = World::with_pod();
    std::os::unix::fs::symlink("../run", world.rootfs.join("home/run")).unwrap();
    let mut spec = world.sh("ls /run/secrets/token && echo $?");
    spec.mounts = vec![Mount::tmpfs("/home/run/secrets/token", None)];
    assert_eq!(world.run(spec).0, "0\n");
}

/// The kernel gives up on a `..` of a link while anything on the machine is renamed (`openat2`, EAGAIN).
#[test]
fn renames_elsewhere_do_not_disturb_a_start() {
    let world = World::with_pod();
    std::os::unix::fs::symlink("../run", world.rootfs.join("home/run")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let (from, to) = (elsewhere.path().join("a"), elsewhere.path().join("b"));
    std::fs::create_dir(&from).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(&from, &to).and_then(|()| std::fs::rename(&to, &from)).unwrap();
            }
        });
        let outcomes: Vec<_> = (0..20)
            .map(|number| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let mut spec = world.sh("ls /run/secrets/token && echo $?");
                    spec.mounts =
                        vec![Mount::tmpfs(format!("/home/run/secrets/token{number}"), None), Mount::tmpfs("/home/run/secrets/token", None)];
                    world.run(spec).0
                }))
            })
            .collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for outcome in outcomes {
            assert_eq!(outcome.expect("it starts"), "0\n");
        }
    });
}

#[test]
fn pods_with_users_of_their_own() {
    let world = World::new();
    let mappings = vec![IdMapping { container_id: 0, host_id: 200_000, size: 65_536 }];
    let user_namespace = Some(UserNamespace { uid_mappings: mappings.clone(), gid_mappings: mappings });
    world.runtime.create_sandbox(SandboxSpec { user_namespace, ..world.pod() }).unwrap();
    let mut spec =
        world.sh("id -u; touch /root/mine; busybox stat -c %u / /bin/busybox /root/mine; cat /proc/self/uid_map | tr -s ' '; busybox ip link set lo down && echo owns the network; exec sleep 1000");
    spec.capabilities = Capabilities::Default { add: vec!["NET_ADMIN".into()], drop: vec![] };
    let id = world.start(spec);
    wait_for(|| world.log(&id).contains("owns"));
    assert_eq!(world.log(&id), "0\n0\n0\n0\n 0 200000 65536\nowns the network\n");
    let pid = world.runtime.container(&id).unwrap().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t200000\t200000"), "{status}");
    assert_eq!(world.exec(&id, &["id", "-u"]), ("0\n".into(), 0));
}
