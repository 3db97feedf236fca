//! A container as the shim sees it: its process, its streams, the log, and who is attached.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::log::Log;
use crate::process::{Report, become_program, connect_streams, join_cgroup, prepare};
use crate::protocol::{ContainerPlan, ExecPlan, Exit, Failure};
use crate::sandbox::Sandbox;
use crate::sys;
use crate::tree::{Outcome, enter_root, failure, mount_root, open_host_trees, run_steps};

/// One output stream of a container.
pub(crate) struct Stream {
    pub(crate) name: &'static str,
    pub(crate) source: Option<OwnedFd>,
    partial: Vec<u8>,
    pub(crate) sinks: Vec<Sink>,
}

/// Somebody attached to a stream.
pub(crate) struct Sink {
    pub(crate) fd: OwnedFd,
    pub(crate) pending: Vec<u8>,
    pub(crate) dead: bool,
}

impl Sink {
    pub(crate) fn flush(&mut self) {
        while !self.pending.is_empty() && !self.dead {
            match sys::write_some(self.fd.as_fd(), &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.dead = true,
            }
        }
    }
}

/// A container and what the shim holds of it.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) pid: i32,
    pub(crate) started_at_ns: u64,
    pub(crate) exit: Option<Exit>,
    pub(crate) log: Option<Log>,
    pub(crate) streams: Vec<Stream>,
    /// Where attached input goes: the write end of a pipe, or a copy of the terminal's master.
    pub(crate) stdin: Option<OwnedFd>,
    stdin_once: bool,
    /// Attached input.
    pub(crate) feeders: Vec<OwnedFd>,
    pub(crate) stdin_pending: Vec<u8>,
    stdin_closing: bool,
    pub(crate) terminal: Option<OwnedFd>,
    oom_file: Option<PathBuf>,
    kill_file: Option<PathBuf>,
    own_pid_namespace: bool,
}

/// A child that has not become its program yet.
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    pub(crate) report: OwnedFd,
}

impl Container {
    /// Clones the container's first process. The rest is told through `Spawned::report`.
    pub(crate) fn start(plan: ContainerPlan, sandbox: &Sandbox, target: Option<&OwnedFd>) -> Outcome<(Container, Spawned)> {
        let log = match &plan.log_path {
            Some(path) => Some(
                Log::open(path, plan.log_max_size_bytes, plan.log_max_files)
                    .map_err(failure("log", format!("opening the log {:?}", path.display())))?,
            ),
            None => None,
        };
        let says = || failure("process", "creating the process");
        let (mut inputs, mut outputs) = ((None, None), Vec::new());
        let mut given = [None, None, None];
        if !plan.process.tty {
            if plan.stdin {
                let (read_end, write_end) = sys::new_pipe().map_err(says())?;
                inputs = (Some(read_end), Some(write_end));
            }
            for (index, name) in [(1, "stdout"), (2, "stderr")] {
                let (read_end, write_end) = sys::new_pipe().map_err(says())?;
                sys::set_nonblocking(read_end.as_fd()).map_err(says())?;
                outputs.push(Stream { name, source: Some(read_end), partial: Vec::new(), sinks: Vec::new() });
                given[index] = Some(write_end);
            }
            given[0] = inputs.0.take();
        }
        let spawned = spawn_first(&plan, sandbox, target, given)?;
        if let Some(fd) = &inputs.1 {
            let _ = sys::set_nonblocking(fd.as_fd());
        }
        let container = Container {
            id: plan.id,
            dir: plan.dir,
            pid: spawned.pid,
            started_at_ns: 0,
            exit: None,
            log,
            streams: outputs,
            stdin: inputs.1,
            stdin_once: plan.stdin_once,
            feeders: Vec::new(),
            stdin_pending: Vec::new(),
            stdin_closing: false,
            terminal: None,
            oom_file: plan.oom_file,
            kill_file: plan.kill_file,
            own_pid_namespace: plan.new_pid,
        };
        Ok((container, spawned))
    }

    /// The child made a terminal.
    pub(crate) fn set_terminal(&mut self, master: OwnedFd) {
        let _ = sys::set_nonblocking(master.as_fd());
        self.stdin = sys::duplicate(master.as_fd()).ok();
        let source = sys::duplicate(master.as_fd()).ok();
        self.streams = vec![Stream { name: "stdout", source, partial: Vec::new(), sinks: Vec::new() }];
        self.terminal = Some(master);
    }

    /// Copies what a stream has to the log and to everybody attached. `all`: until nothing is left, however slow the others are.
    pub(crate) fn pump(&mut self, index: usize, all: bool, buffer: &mut [u8]) {
        let Some(stream) = self.streams.get_mut(index) else { return };
        while let Some(source) = &stream.source {
            let (bytes, end) = match sys::read_some(source.as_fd(), buffer) {
                Ok(0) => (&buffer[..0], true),
                Ok(count) => (&buffer[..count], false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A terminal whose last slave was closed.
                Err(_) => (&buffer[..0], true),
            };
            if let Some(log) = &mut self.log {
                log.write(stream.name, &mut stream.partial, bytes, end);
            }
            for sink in &mut stream.sinks {
                sink.pending.extend_from_slice(bytes);
                sink.flush();
            }
            if end {
                stream.source = None;
            }
            stream.sinks.retain(|sink| !sink.dead && !(end && sink.pending.is_empty()));
            if !all {
                return;
            }
        }
    }

    /// Takes attached input on towards the process.
    pub(crate) fn feed(&mut self, buffer: &mut [u8]) {
        let mut ended = Vec::new();
        for (index, feeder) in self.feeders.iter().enumerate() {
            match sys::read_some(feeder.as_fd(), buffer) {
                Ok(0) => ended.push(index),
                Ok(count) => self.stdin_pending.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => ended.push(index),
            }
        }
        for index in ended.into_iter().rev() {
            self.feeders.remove(index);
            if self.stdin_once && self.feeders.is_empty() {
                self.stdin_once = false;
                self.stdin_closing = true;
            }
        }
        self.flush_stdin();
    }

    pub(crate) fn flush_stdin(&mut self) {
        while !self.stdin_pending.is_empty() {
            let Some(stdin) = &self.stdin else {
                self.stdin_pending.clear();
                return;
            };
            match sys::write_some(stdin.as_fd(), &self.stdin_pending) {
                Ok(count) => drop(self.stdin_pending.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.stdin = None;
                }
            }
        }
        if self.stdin_closing {
            self.stdin = None;
        }
    }

    /// Adds somebody to the streams; descriptors in the order input, output, error.
    pub(crate) fn attach(&mut self, mut fds: [Option<OwnedFd>; 3]) {
        if let Some(feeder) = fds[0].take()
            && self.stdin.is_some()
        {
            let _ = sys::set_nonblocking(feeder.as_fd());
            self.feeders.push(feeder);
        }
        for (index, fd) in fds.into_iter().skip(1).enumerate() {
            if let (Some(fd), Some(stream)) = (fd, self.streams.get_mut(index))
                && stream.source.is_some()
            {
                let _ = sys::set_nonblocking(fd.as_fd());
                stream.sinks.push(Sink { fd, pending: Vec::new(), dead: false });
            }
        }
    }

    /// The first process ended: ends what is left, completes the log, writes the record.
    pub(crate) fn ended(&mut self, code: i32, signal: i32, buffer: &mut [u8]) {
        if !self.own_pid_namespace {
            self.kill_all(9);
        }
        for index in 0..self.streams.len() {
            self.pump(index, true, buffer);
        }
        self.feeders.clear();
        self.stdin = None;
        let exit = Exit { code, signal, oom_killed: self.oom_killed(), finished_at_ns: crate::log::now_ns() };
        let record = format!("{} {} {} {}\n", exit.code, exit.signal, u8::from(exit.oom_killed), exit.finished_at_ns);
        write_record(&self.dir.join("exit"), &record);
        self.exit = Some(exit);
    }

    fn oom_killed(&self) -> bool {
        let Some(text) = self.oom_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()) else { return false };
        text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }

    /// Signals every process of the container's cgroup.
    pub(crate) fn kill_all(&self, signal: i32) {
        let Some(file) = &self.kill_file else { return };
        if file.ends_with("cgroup.kill") && signal == 9 {
            let _ = std::fs::write(file, "1");
            return;
        }
        let procs = file.with_file_name("cgroup.procs");
        // Again, while processes fork faster than they are listed.
        for _ in 0..16 {
            let Ok(text) = std::fs::read_to_string(&procs) else { return };
            let found = text
                .lines()
                .filter_map(|line| line.parse().ok())
                .filter(|&pid: &i32| pid > 1)
                .map(|pid| sys::send_signal(pid, signal))
                .count();
            if found == 0 || signal != 9 {
                return;
            }
        }
    }
}

/// Replaces a file in one step.
pub(crate) fn write_record(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    let _ = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path));
}

fn cgroup_dir(dir: Option<&PathBuf>) -> Outcome<Option<OwnedFd>> {
    dir.map(|dir| sys::openat2(None, dir, sys::O_PATH | sys::O_DIRECTORY, 0, 0).map_err(failure("cgroup", dir.display()))).transpose()
}

fn join_sandbox(sandbox: &Sandbox) -> Outcome<()> {
    for (fd, kind) in [(&sandbox.network, sys::CLONE_NEWNET), (&sandbox.ipc, sys::CLONE_NEWIPC), (&sandbox.uts, sys::CLONE_NEWUTS)] {
        if let Some(fd) = fd {
            sys::enter_namespace(fd.as_fd(), kind).map_err(failure("namespace", "joining the sandbox"))?;
        }
    }
    Ok(())
}

/// The PID namespace of a container that runs.
pub(crate) fn processes(container: &Container) -> Outcome<OwnedFd> {
    std::fs::File::open(format!("/proc/{}/ns/pid", container.pid))
        .map(OwnedFd::from)
        .map_err(failure("namespace", format!("joining the processes of container {:?}", container.id)))
}

/// `target` is the PID namespace of another container, where that was asked for.
fn spawn_first(plan: &ContainerPlan, sandbox: &Sandbox, target: Option<&OwnedFd>, given: [Option<OwnedFd>; 3]) -> Outcome<Spawned> {
    let flags = if plan.new_pid { sys::CLONE_NEWPID } else { 0 };
    let joined = if plan.new_pid { None } else { target.or(sandbox.pid.as_ref()) };
    spawn(flags, joined.map(AsFd::as_fd), plan.cgroup.v2_dir.as_ref(), |report| {
        let build = || -> Outcome<()> {
            prepare(&plan.process, &plan.cgroup, report)?;
            join_sandbox(sandbox)?;
            if plan.cgroup_namespace
                && let Err(error) = sys::leave_namespaces(sys::CLONE_NEWCGROUP)
            {
                report.warn(&format!("no cgroup namespace: {error}"));
            }
            let shm = match &sandbox.shm {
                Some(shm) => Some(copy_shm(shm.as_fd()).map_err(failure("mount", "copying the pod's /dev/shm"))?),
                None => None,
            };
            let mut warnings = Vec::new();
            let user = sandbox.user.as_ref().map(AsFd::as_fd);
            let trees = open_host_trees(&plan.root, &plan.steps, user, &mut warnings)?;
            sys::leave_namespaces(sys::CLONE_NEWNS).map_err(failure("namespace", "making a mount namespace"))?;
            sys::mount_classic("", Path::new("/"), "", sys::MS_REC | sys::MS_PRIVATE, b"").map_err(failure("mount", "making / private"))?;
            let root = mount_root(&plan.root, &plan.root_mountpoint, &trees, user.map(|user| (user, sandbox.owner)), &mut warnings)?;
            run_steps(root.as_fd(), &plan.steps, &trees, shm, &mut warnings)?;
            warnings.iter().for_each(|text| report.warn(text));
            let cwd = &plan.process.cwd;
            if !cwd.as_os_str().is_empty() {
                let _ = crate::tree::ensure_dir(root.as_fd(), cwd, 0o755);
            }
            enter_root(root.as_fd(), plan.root_read_only)?;
            if let Some(user) = &sandbox.user {
                sys::enter_namespace(user.as_fd(), sys::CLONE_NEWUSER).map_err(failure("namespace", "joining the user namespace"))?;
                sys::leave_namespaces(sys::CLONE_NEWNS).map_err(failure("namespace", "making a mount namespace"))?;
            }
            Ok(())
        };
        if let Err(failure) = build() {
            return failure;
        }
        match connect_streams(&plan.process, given, true, report) {
            Ok(()) => become_program(&plan.process, report),
            Err(failure) => failure,
        }
    })
}

/// Clones a further process into a running container.
pub(crate) fn spawn_exec(plan: &ExecPlan, container: &Container, user_namespace: bool, given: [Option<OwnedFd>; 3]) -> Outcome<Spawned> {
    let says = || failure("namespace", "joining the container");
    let target = sys::pidfd_open(container.pid).map_err(says())?;
    let pid_namespace = std::fs::File::open(format!("/proc/{}/ns/pid", container.pid)).map(OwnedFd::from).map_err(says())?;
    spawn(0, Some(pid_namespace.as_fd()), plan.cgroup.v2_dir.as_ref(), |report| {
        let enter = || -> Outcome<()> {
            prepare(&plan.process, &plan.cgroup, report)?;
            let user = if user_namespace { sys::CLONE_NEWUSER } else { 0 };
            let kinds = sys::CLONE_NEWNS | sys::CLONE_NEWNET | sys::CLONE_NEWIPC | sys::CLONE_NEWUTS | sys::CLONE_NEWCGROUP | user;
            sys::enter_namespace(target.as_fd(), kinds).map_err(says())
        };
        if let Err(failure) = enter() {
            return failure;
        }
        match connect_streams(&plan.process, given, false, report) {
            Ok(()) => become_program(&plan.process, report),
            Err(failure) => failure,
        }
    })
}

/// Clones a child that runs `body` to its end: a program, or a failure.
fn spawn(
    flags: u64,
    pid_namespace: Option<BorrowedFd<'_>>,
    cgroup: Option<&PathBuf>,
    body: impl FnOnce(&Report) -> Failure,
) -> Outcome<Spawned> {
    let says = || failure("process", "creating the process");
    let cgroup = cgroup_dir(cgroup)?;
    let (ours, theirs) = sys::packet_pair().map_err(says())?;
    let own = match pid_namespace {
        Some(fd) => {
            let own = std::fs::File::open("/proc/self/ns/pid").map_err(says())?;
            sys::enter_namespace(fd, sys::CLONE_NEWPID).map_err(says())?;
            Some(own)
        }
        None => None,
    };
    let pid = sys::clone3(flags, cgroup.as_ref().map(AsFd::as_fd));
    if let (Some(own), true) = (&own, !matches!(pid, Ok(0))) {
        sys::enter_namespace(own.as_fd(), sys::CLONE_NEWPID).map_err(says())?;
    }
    let pid = pid.map_err(says())?;
    if pid == 0 {
        drop(ours);
        let report = Report(theirs);
        let failure = body(&report);
        report.fail(&failure);
    }
    sys::set_nonblocking(ours.as_fd()).map_err(says())?;
    Ok(Spawned { pid, report: ours })
}

/// A copy of the mount that is the root of the pod's shm namespace.
fn copy_shm(shm: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let own = std::fs::File::open("/proc/self/ns/mnt")?;
    sys::enter_namespace(shm, sys::CLONE_NEWNS)?;
    let copy = sys::open_tree(None, Path::new("/"), false);
    sys::enter_namespace(own.as_fd(), sys::CLONE_NEWNS)?;
    copy
}

/// Moves the shim itself into its cgroup.
pub(crate) fn join_own_cgroup(join: &crate::protocol::CgroupJoin) -> Outcome<()> {
    if let Some(dir) = &join.v2_dir {
        let file = dir.join("cgroup.procs");
        std::fs::write(&file, "0").map_err(failure("cgroup", format!("joining cgroup {:?}", file.display())))?;
    }
    join_cgroup(join)
}
