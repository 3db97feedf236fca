//! The shim: one small process per pod that outlives the agent.
//!
//! It is the parent of every container's first process and of every exec, holds the pod's namespaces, copies output to logs and to whoever
//! is attached, and records exits on disk. It has one thread and one `poll`. The agent starts it with the listening socket as standard
//! input, or as `/pause`, which only reaps.

mod container;
mod log;
mod process;
mod protocol;
mod sandbox;
mod sys;
mod tree;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use container::{Container, Sink, Spawned};
use protocol::{Exit, Failure, MESSAGE_MAX, Reply, Request, VERSION, decode, encode};
use sandbox::Sandbox;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// Asks and gets one answer at a time.
    Requests,
    /// Also hears of exits.
    Events,
    /// Belongs to this process.
    Exec(i32),
    /// Closed, to be forgotten.
    Gone,
}

struct Client {
    fd: OwnedFd,
    role: Role,
}

/// A child on its way to its program, and the connection that waits for it.
struct Pending {
    spawned: Spawned,
    client: RawFd,
    warnings: Vec<String>,
    ready: bool,
    exec: bool,
    terminal: Option<OwnedFd>,
}

struct Shim {
    listener: OwnedFd,
    signals: OwnedFd,
    clients: Vec<Client>,
    pending: Vec<Pending>,
    containers: Vec<Container>,
    sandbox: Sandbox,
    /// Exec'd processes that nobody has heard of the end of.
    execs: Vec<i32>,
    /// Connections that wait for everything to be gone.
    leaving: Option<RawFd>,
    /// The pause process ended by itself.
    over: bool,
    buffer: Vec<u8>,
}

fn unknown(id: &str) -> Failure {
    Failure { step: "container".into(), errno: 2, message: format!("container {id:?} is not known to the shim") }
}

fn send(fd: BorrowedFd<'_>, reply: &Reply, fds: &[BorrowedFd<'_>]) {
    let body = encode(reply);
    let mut message = (body.len() as u32).to_le_bytes().to_vec();
    message.extend(body);
    let mut sent = match sys::send_with_fds(fd, &message, fds) {
        Ok(count) => count,
        Err(_) => return,
    };
    while sent < message.len() {
        match sys::send_with_fds(fd, &message[sent..], &[]) {
            Ok(count) => sent += count,
            Err(_) => return,
        }
    }
}

fn receive(fd: BorrowedFd<'_>) -> Option<(Request, Vec<OwnedFd>)> {
    let mut fds = Vec::new();
    let mut length = [0; 4];
    let mut got = 0;
    while got < 4 {
        match sys::receive_with_fds(fd, &mut length[got..], &mut fds) {
            Ok(0) | Err(_) => return None,
            Ok(count) => got += count,
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE_MAX {
        return None;
    }
    let mut body = vec![0; length];
    let mut got = 0;
    while got < length {
        match sys::receive_with_fds(fd, &mut body[got..], &mut fds) {
            Ok(0) | Err(_) => return None,
            Ok(count) => got += count,
        }
    }
    Some((decode(&body)?, fds))
}

fn pick(streams: (bool, bool, bool), fds: Vec<OwnedFd>) -> [Option<OwnedFd>; 3] {
    let mut fds = fds.into_iter();
    let mut take = |wanted: bool| if wanted { fds.next() } else { None };
    [take(streams.0), take(streams.1), take(streams.2)]
}

impl Shim {
    fn run(&mut self) -> std::io::Result<()> {
        loop {
            let mut fds = vec![(self.listener.as_raw_fd(), sys::POLLIN), (self.signals.as_raw_fd(), sys::POLLIN)];
            fds.extend(self.pending.iter().map(|pending| (pending.spawned.report.as_raw_fd(), sys::POLLIN)));
            fds.extend(self.clients.iter().map(|client| (client.fd.as_raw_fd(), sys::POLLIN)));
            for container in &self.containers {
                for stream in &container.streams {
                    let slow = stream.sinks.iter().any(|sink| !sink.pending.is_empty());
                    if let (Some(source), false) = (&stream.source, slow) {
                        fds.push((source.as_raw_fd(), sys::POLLIN));
                    }
                    // Without a wish for events, poll still tells when the other end is closed.
                    fds.extend(
                        stream.sinks.iter().map(|sink| (sink.fd.as_raw_fd(), if sink.pending.is_empty() { 0 } else { sys::POLLOUT })),
                    );
                }
                match (&container.stdin, container.stdin_pending.is_empty()) {
                    (Some(stdin), false) => fds.push((stdin.as_raw_fd(), sys::POLLOUT)),
                    _ => fds.extend(container.feeders.iter().map(|feeder| (feeder.as_raw_fd(), sys::POLLIN))),
                }
            }
            let mut fds: Vec<sys::PollFd> = fds.into_iter().map(|(fd, events)| sys::PollFd { fd, events, revents: 0 }).collect();
            sys::wait_for_events(&mut fds)?;
            let ready: Vec<(RawFd, i16)> = fds.iter().filter(|fd| fd.revents != 0).map(|fd| (fd.fd, fd.revents)).collect();
            drop(fds);
            self.handle(&ready);
            if (self.leaving.is_some() || self.over) && self.try_leave() {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, ready: &[(RawFd, i16)]) {
        let is_ready = |fd: RawFd| ready.iter().any(|&(other, _)| other == fd);
        self.advance_pending();
        let mut buffer = std::mem::take(&mut self.buffer);
        for container in &mut self.containers {
            for index in 0..container.streams.len() {
                let stream = &mut container.streams[index];
                for sink in &mut stream.sinks {
                    if let Some((_, events)) = ready.iter().find(|(fd, _)| *fd == sink.fd.as_raw_fd()) {
                        sink.flush();
                        // POLLERR or POLLHUP: nobody reads any more.
                        sink.dead |= events & 0x18 != 0;
                    }
                }
                let ended = stream.source.is_none();
                stream.sinks.retain(|sink: &Sink| !sink.dead && !(ended && sink.pending.is_empty()));
                if stream.source.as_ref().is_some_and(|source| is_ready(source.as_raw_fd())) {
                    container.pump(index, false, &mut buffer);
                }
            }
            if container.stdin.as_ref().is_some_and(|stdin| is_ready(stdin.as_raw_fd())) {
                container.flush_stdin();
            }
            if container.feeders.iter().any(|feeder| is_ready(feeder.as_raw_fd())) {
                container.feed(&mut buffer);
            }
        }
        self.buffer = buffer;
        if is_ready(self.signals.as_raw_fd()) {
            let _ = sys::read_some(self.signals.as_fd(), &mut [0; 128]);
            self.reap();
        }
        let asking: Vec<RawFd> = self.clients.iter().map(|client| client.fd.as_raw_fd()).filter(|&fd| is_ready(fd)).collect();
        for fd in asking {
            self.serve(fd);
        }
        self.clients.retain(|client| client.role != Role::Gone);
        if is_ready(self.listener.as_raw_fd())
            && let Ok(fd) = sys::accept(self.listener.as_fd())
        {
            let _ = sys::set_timeouts(fd.as_fd(), 10);
            self.clients.push(Client { fd, role: Role::Requests });
        }
    }

    fn client(&self, fd: RawFd) -> Option<BorrowedFd<'_>> {
        self.clients.iter().find(|client| client.fd.as_raw_fd() == fd && client.role != Role::Gone).map(|client| client.fd.as_fd())
    }

    fn answer(&self, fd: RawFd, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        if let Some(client) = self.client(fd) {
            send(client, reply, fds);
        }
    }

    fn set_role(&mut self, fd: RawFd, role: Role) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.fd.as_raw_fd() == fd) {
            client.role = role;
        }
    }

    fn container(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.id == id)
    }

    fn serve(&mut self, client: RawFd) {
        let Some(fd) = self.client(client) else { return };
        let Some((request, fds)) = receive(fd) else {
            self.set_role(client, Role::Gone);
            // Nobody waits for these any more; the processes go on.
            self.pending.iter_mut().filter(|pending| pending.client == client).for_each(|pending| pending.client = -1);
            return;
        };
        let role = self.clients.iter().find(|other| other.fd.as_raw_fd() == client).map_or(Role::Gone, |client| client.role);
        let reply = match request {
            Request::Setup { plan } => match container::join_own_cgroup(&plan.cgroup).and_then(|()| sandbox::set_up(&plan)) {
                Ok((sandbox, warnings)) => {
                    self.sandbox = sandbox;
                    self.ready(warnings)
                }
                Err(failure) => Reply::Failed { failure },
            },
            Request::Subscribe {} => {
                self.set_role(client, Role::Events);
                self.ready(Vec::new())
            }
            Request::Start { plan } => match self.processes(plan.processes_of.as_ref()).and_then(|target| Container::start(plan, &self.sandbox, target.as_ref())) {
                Ok((container, spawned)) => {
                    self.containers.retain(|other| other.id != container.id);
                    self.containers.push(container);
                    self.pending.push(Pending { spawned, client, warnings: Vec::new(), ready: false, exec: false, terminal: None });
                    return;
                }
                Err(failure) => Reply::Failed { failure },
            },
            Request::Exec { plan } => {
                let given = pick(plan.streams, fds);
                let user = self.sandbox.user.is_some();
                let target = self.containers.iter().find(|container| container.id == plan.container_id && container.exit.is_none());
                match target.ok_or_else(|| unknown(&plan.container_id)).and_then(|target| container::spawn_exec(&plan, target, user, given))
                {
                    Ok(spawned) => {
                        self.execs.push(spawned.pid);
                        self.pending.push(Pending { spawned, client, warnings: Vec::new(), ready: false, exec: true, terminal: None });
                        return;
                    }
                    Err(failure) => Reply::Failed { failure },
                }
            }
            Request::Kill { container_id, signal, all } => match self.container(&container_id) {
                Some(container) => {
                    if container.exit.is_none() {
                        // The process is ours until reaped, so its number can not be another's.
                        let _ = sys::send_signal(container.pid, signal);
                    }
                    if all {
                        container.kill_all(signal);
                    }
                    Reply::Done {}
                }
                None => Reply::Failed { failure: unknown(&container_id) },
            },
            Request::ExecKill { signal } => {
                if let Role::Exec(pid) = role
                    && self.execs.contains(&pid)
                {
                    let _ = sys::send_signal(pid, signal);
                }
                return;
            }
            Request::Attach { container_id, streams } => match self.container(&container_id).filter(|container| container.exit.is_none()) {
                Some(container) => {
                    container.attach(pick(streams, fds));
                    Reply::Done {}
                }
                None => Reply::Failed { failure: unknown(&container_id) },
            },
            Request::Resize { container_id, columns, rows } => match self.container(&container_id) {
                Some(container) => {
                    if let Some(terminal) = &container.terminal {
                        let _ = sys::set_terminal_size(terminal.as_fd(), columns, rows);
                    }
                    Reply::Done {}
                }
                None => Reply::Failed { failure: unknown(&container_id) },
            },
            Request::ReopenLog { container_id } => match self.container(&container_id) {
                Some(container) => match container.log.as_mut().map(log::Log::reopen) {
                    Some(Err(error)) => Reply::Failed { failure: tree::failure("log", "opening the log again")(error) },
                    _ => Reply::Done {},
                },
                None => Reply::Failed { failure: unknown(&container_id) },
            },
            Request::Forget { container_id } => {
                self.containers.retain(|container| container.id != container_id || container.exit.is_none());
                Reply::Done {}
            }
            Request::Network {} => {
                let network: Vec<BorrowedFd<'_>> = self.sandbox.network.iter().map(AsFd::as_fd).collect();
                self.answer(client, &Reply::Done {}, &network);
                return;
            }
            Request::Shutdown {} => {
                self.leaving = Some(client);
                self.kill_everything();
                self.reap();
                return;
            }
        };
        self.answer(client, &reply, &[]);
    }

    /// The PID namespace of the container that a new one joins.
    fn processes(&self, id: Option<&String>) -> Result<Option<OwnedFd>, Failure> {
        let Some(id) = id else { return Ok(None) };
        let target = self.containers.iter().find(|container| &container.id == id && container.exit.is_none());
        target.ok_or_else(|| unknown(id)).and_then(container::processes).map(Some)
    }

    fn kill_everything(&self) {
        for container in self.containers.iter().filter(|container| container.exit.is_none()) {
            let _ = sys::send_signal(container.pid, 9);
            container.kill_all(9);
        }
        if let Some(pid) = self.sandbox.pause_pid {
            let _ = sys::send_signal(pid, 9);
        }
    }

    fn ready(&self, warnings: Vec<String>) -> Reply {
        let network_fd = self.sandbox.network.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        Reply::Ready { version: VERSION, network_fd, warnings }
    }

    /// Hears what starting children have to say.
    fn advance_pending(&mut self) {
        let mut buffer = vec![0; 16 * 1024];
        for mut pending in std::mem::take(&mut self.pending) {
            match self.hear(&mut pending, &mut buffer) {
                None => self.pending.push(pending),
                Some(Ok(())) => self.started(pending),
                Some(Err(failure)) => {
                    // The child is reaped later, without a record.
                    if pending.exec {
                        self.execs.retain(|&pid| pid != pending.spawned.pid);
                    } else {
                        self.containers.retain(|container| container.pid != pending.spawned.pid);
                    }
                    self.answer(pending.client, &Reply::Failed { failure }, &[]);
                }
            }
        }
    }

    fn hear(&mut self, pending: &mut Pending, buffer: &mut [u8]) -> Option<Result<(), Failure>> {
        let died = || Failure { step: "process".into(), errno: 0, message: "the process died while it was being set up".into() };
        loop {
            let mut fds = Vec::new();
            let got = match sys::receive_with_fds(pending.spawned.report.as_fd(), buffer, &mut fds) {
                Ok(got) => got,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(_) => 0,
            };
            match buffer[..got].split_first() {
                None => return Some(if pending.ready { Ok(()) } else { Err(died()) }),
                Some((b'W', text)) => pending.warnings.push(String::from_utf8_lossy(text).into_owned()),
                Some((b'X', _)) => pending.ready = true,
                Some((b'E', rest)) => return Some(Err(decode(rest).unwrap_or_else(died))),
                Some((b'T', _)) => {
                    let Some(master) = fds.pop() else { continue };
                    let pid = pending.spawned.pid;
                    match self.containers.iter_mut().find(|container| !pending.exec && container.pid == pid) {
                        Some(container) => container.set_terminal(master),
                        None => pending.terminal = Some(master),
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn started(&mut self, pending: Pending) {
        let pid = pending.spawned.pid;
        let started_at_ns = log::now_ns();
        if pending.exec {
            self.set_role(pending.client, Role::Exec(pid));
        } else if let Some(container) = self.containers.iter_mut().find(|container| container.pid == pid) {
            container.started_at_ns = started_at_ns;
            container::write_record(&container.dir.join("started"), &format!("{pid} {started_at_ns}\n"));
        }
        let reply = Reply::Started { pid: pid as u32, started_at_ns, warnings: pending.warnings };
        let terminal: Vec<BorrowedFd<'_>> = pending.terminal.iter().map(AsFd::as_fd).collect();
        self.answer(pending.client, &reply, &terminal);
    }

    fn reap(&mut self) {
        while let Some((pid, code, signal)) = sys::reap() {
            // Its last words come first.
            if self.pending.iter().any(|pending| pending.spawned.pid == pid) {
                self.advance_pending();
            }
            if let Some(container) = self.containers.iter_mut().find(|container| container.pid == pid && container.exit.is_none()) {
                container.ended(code, signal, &mut self.buffer);
                let exit = container.exit.clone().unwrap_or_default();
                let reply = Reply::ContainerExited { container_id: container.id.clone(), exit };
                for client in self.clients.iter().filter(|client| client.role == Role::Events) {
                    send(client.fd.as_fd(), &reply, &[]);
                }
            } else if self.execs.contains(&pid) {
                self.execs.retain(|&other| other != pid);
                let exit = Exit { code, signal, oom_killed: false, finished_at_ns: log::now_ns() };
                for client in self.clients.iter().filter(|client| client.role == Role::Exec(pid)) {
                    send(client.fd.as_fd(), &Reply::Exited { exit: exit.clone() }, &[]);
                }
            } else if self.sandbox.pause_pid == Some(pid) {
                self.sandbox.pause_pid = None;
                // Without its first process the shared PID namespace takes no more: the pod is over.
                if self.leaving.is_none() {
                    self.over = true;
                    self.kill_everything();
                }
            }
        }
    }

    /// True when nothing is left, after saying so.
    fn try_leave(&mut self) -> bool {
        let busy = self.containers.iter().any(|container| container.exit.is_none())
            || self.sandbox.pause_pid.is_some()
            || !self.pending.is_empty();
        if !busy && let Some(client) = self.leaving {
            self.answer(client, &Reply::Done {}, &[]);
        }
        !busy
    }
}

fn main() {
    if std::env::args_os().next().is_some_and(|name| name == "/pause") {
        sys::set_name(c"pause");
        sys::reap_forever();
    }
    sys::set_name(c"trierarch-shim");
    let _ = sys::new_session();
    sys::default_signals();
    sys::ignore_broken_pipes();
    let _ = sys::process_control(sys::prctl_option::SET_CHILD_SUBREAPER, 1, 0, 0);
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    let run = || -> std::io::Result<()> {
        let listener = sys::duplicate(std::io::stdin().as_fd())?;
        let null = std::fs::File::open("/dev/null")?;
        sys::place_fd(null.as_fd(), 0)?;
        let signals = sys::child_signals()?;
        let mut shim = Shim {
            listener,
            signals,
            clients: Vec::new(),
            pending: Vec::new(),
            containers: Vec::new(),
            sandbox: Sandbox::default(),
            execs: Vec::new(),
            leaving: None,
            over: false,
            buffer: vec![0; 32 * 1024],
        };
        shim.run()
    };
    if let Err(error) = run() {
        eprintln!("{} the shim ended: {error}", log::rfc3339(log::now_ns()));
        std::process::exit(1);
    }
}
