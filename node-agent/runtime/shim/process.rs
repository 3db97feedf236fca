//! From a cloned child to the container's program: cgroup, identity, limits, filter, exec. Runs in the cloned child.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::protocol::{CgroupJoin, Failure, ProcessPlan, encode};
use crate::sys::{self, prctl_option};
use crate::tree::{Outcome, describe, failure};

/// The way from the child to the shim: `W` warnings, `T` with the terminal's master, `X` when only exec is left, `E` and a failure.
pub(crate) struct Report(pub(crate) OwnedFd);

impl Report {
    pub(crate) fn warn(&self, text: &str) {
        let _ = sys::send_with_fds(self.0.as_fd(), &[b"W", text.as_bytes()].concat(), &[]);
    }

    fn terminal(&self, master: BorrowedFd<'_>) -> io::Result<()> {
        sys::send_with_fds(self.0.as_fd(), b"T", &[master]).map(drop)
    }

    pub(crate) fn fail(&self, failure: &Failure) -> ! {
        let _ = sys::send_with_fds(self.0.as_fd(), &[b"E".to_vec(), encode(failure)].concat(), &[]);
        sys::exit_now(1)
    }
}

/// Moves this process into its cgroup (v1; on v2 it was cloned there).
pub(crate) fn join_cgroup(join: &CgroupJoin) -> Outcome<()> {
    for file in &join.procs {
        std::fs::write(file, "0").map_err(failure("cgroup", format!("joining cgroup {:?}", file.display())))?;
    }
    Ok(())
}

/// What must be done before namespaces change: session, signals, scores.
pub(crate) fn prepare(plan: &ProcessPlan, join: &CgroupJoin, report: &Report) -> Outcome<()> {
    sys::reset_signals();
    let _ = sys::process_control(prctl_option::SET_DUMPABLE, 0, 0, 0);
    sys::new_session().map_err(failure("process", "setsid"))?;
    sys::set_umask(0);
    join_cgroup(join)?;
    if let Some(score) = plan.oom_score_adj
        && let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
    {
        report.warn(&format!("oom_score_adj {score} was refused: {}", describe(&error)));
    }
    Ok(())
}

/// The process' standard streams: given descriptors, or `/dev/null`, or a new terminal of the container.
pub(crate) fn connect_streams(plan: &ProcessPlan, streams: [Option<OwnedFd>; 3], console: bool, report: &Report) -> Outcome<()> {
    if plan.tty {
        let master = sys::openat2(None, Path::new("/dev/ptmx"), 2 | 0o400, 0, 0).map_err(failure("terminal", "open /dev/ptmx"))?;
        let slave = sys::terminal_slave(master.as_fd()).map_err(failure("terminal", "opening the terminal"))?;
        if let Some((columns, rows)) = plan.tty_size {
            let _ = sys::set_terminal_size(master.as_fd(), columns, rows);
        }
        let _ = sys::change_owner(slave.as_fd(), OsStr::new(""), plan.uid, u32::MAX);
        if console {
            let number = sys::terminal_number(master.as_fd()).map_err(failure("terminal", "numbering the terminal"))?;
            let _ = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open("/dev/console");
            if let Err(error) = sys::mount_classic(&format!("/dev/pts/{number}"), Path::new("/dev/console"), "bind", sys::MS_BIND, b"") {
                report.warn(&format!("/dev/console is missing: {}", describe(&error)));
            }
        }
        report.terminal(master.as_fd()).map_err(failure("terminal", "handing over the terminal"))?;
        sys::take_terminal(slave.as_fd()).map_err(failure("terminal", "taking the terminal"))?;
        for target in 0..3 {
            sys::place_fd(slave.as_fd(), target).map_err(failure("terminal", "connecting the terminal"))?;
        }
        return Ok(());
    }
    for (target, stream) in (0..).zip(streams) {
        let stream = match stream {
            Some(stream) => {
                // So that the user may open /dev/stdout again.
                let _ = sys::change_owner(stream.as_fd(), OsStr::new(""), plan.uid, plan.gid);
                stream
            }
            None => sys::openat2(None, Path::new("/dev/null"), 2, 0, 0).map_err(failure("streams", "open /dev/null"))?,
        };
        sys::place_fd(stream.as_fd(), target).map_err(failure("streams", "connecting standard streams"))?;
    }
    Ok(())
}

/// Becomes the program. Returns only with a failure.
pub(crate) fn become_program(plan: &ProcessPlan, report: &Report) -> Failure {
    match take_identity(plan, report) {
        Err(failure) => failure,
        Ok(()) => execute(plan, report),
    }
}

fn take_identity(plan: &ProcessPlan, report: &Report) -> Outcome<()> {
    sys::close_others_on_exec().map_err(failure("process", "closing descriptors"))?;
    for &(resource, soft, hard) in &plan.rlimits {
        set_limit(resource, soft, hard, report);
    }
    let early = enter_cwd(&plan.cwd);
    if plan.no_new_privileges {
        sys::process_control(prctl_option::SET_NO_NEW_PRIVS, 1, 0, 0).map_err(failure("process", "no_new_privs"))?;
    } else {
        install_filters(plan)?;
    }
    for bit in (0..64).filter(|bit| plan.bounding & (1 << bit) == 0) {
        match sys::process_control(prctl_option::CAPBSET_DROP, bit, 0, 0) {
            // The kernel knows no more.
            Err(error) if error.raw_os_error() == Some(22) => break,
            other => other.map_err(failure("capabilities", format!("dropping capability {bit}")))?,
        };
    }
    sys::process_control(prctl_option::SET_KEEPCAPS, 1, 0, 0).map_err(failure("capabilities", "keeping capabilities"))?;
    sys::set_groups(&plan.groups).map_err(failure("user", "setgroups"))?;
    sys::set_gid(plan.gid).map_err(failure("user", format!("setgid {}", plan.gid)))?;
    sys::set_uid(plan.uid).map_err(failure("user", format!("setuid {}", plan.uid)))?;
    sys::process_control(prctl_option::SET_KEEPCAPS, 0, 0, 0).map_err(failure("capabilities", "keeping capabilities"))?;
    sys::set_capabilities(plan.effective, plan.permitted, plan.inheritable).map_err(failure("capabilities", "capset"))?;
    for bit in 0..64 {
        if plan.ambient & (1 << bit) != 0
            && let Err(error) = sys::process_control(prctl_option::CAP_AMBIENT, 2, bit, 0)
        {
            report.warn(&format!("ambient capability {bit} was refused: {}", describe(&error)));
        }
    }
    sys::set_umask(plan.umask);
    if early.is_err() {
        enter_cwd(&plan.cwd).map_err(failure("cwd", format!("chdir to cwd ({:?}) set in config.json failed", plan.cwd.display())))?;
    }
    // A directory outside the root would show the host.
    if std::env::current_dir().is_ok_and(|dir| !dir.starts_with("/")) {
        return Err(failure("cwd", "current working directory is outside of container mount namespace root")(
            io::Error::from_raw_os_error(1),
        ));
    }
    Ok(())
}

fn enter_cwd(cwd: &Path) -> io::Result<()> {
    let cwd = if cwd.as_os_str().is_empty() { Path::new("/") } else { cwd };
    std::env::set_current_dir(cwd)
}

fn set_limit(resource: u32, soft: u64, hard: u64, report: &Report) {
    if sys::set_limit(resource, soft, hard).is_ok() {
        return;
    }
    let Ok((_, most)) = sys::get_limit(resource) else { return };
    let (soft, hard) = (soft.min(most), hard.min(most));
    let text = match sys::set_limit(resource, soft, hard) {
        Ok(()) => format!("limit {resource} was clamped to {hard}"),
        Err(error) => format!("limit {resource} was refused: {}", describe(&error)),
    };
    report.warn(&text);
}

fn install_filters(plan: &ProcessPlan) -> Outcome<()> {
    plan.seccomp.iter().try_for_each(|filter| sys::install_seccomp(filter)).map_err(failure("seccomp", "installing the system call filter"))
}

fn c_strings(strings: &[OsString]) -> Outcome<Vec<CString>> {
    strings.iter().map(sys::c_path).collect::<io::Result<_>>().map_err(failure("exec", "an argument holds a NUL byte"))
}

fn execute(plan: &ProcessPlan, report: &Report) -> Failure {
    let steps = || -> Outcome<(PathBuf, Vec<CString>, Vec<CString>)> {
        let Some(name) = plan.args.first() else {
            return Err(Failure { step: "exec".into(), errno: 22, message: "args must not be empty".into() });
        };
        let path = plan.env.iter().rev().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH=")).unwrap_or_default();
        let mut env = plan.env.clone();
        if !env.iter().any(|entry| entry.as_bytes().starts_with(b"HOME=")) {
            let home = std::fs::read_to_string("/etc/passwd").ok().and_then(|passwd| home_of(plan.uid, &passwd));
            env.push(format!("HOME={}", home.as_deref().unwrap_or("/")).into());
        }
        Ok((find_program(name, path)?, c_strings(&plan.args)?, c_strings(&env)?))
    };
    let (program, args, env) = match steps() {
        Ok(found) => found,
        Err(failure) => return failure,
    };
    let _ = sys::send_with_fds(report.0.as_fd(), b"X", &[]);
    if plan.no_new_privileges
        && let Err(failure) = install_filters(plan)
    {
        return failure;
    }
    let error = match sys::c_path(&program) {
        Ok(path) => sys::execute(&path, &args, &env),
        Err(error) => error,
    };
    failure("exec", format!("exec {}", program.display()))(error)
}

fn home_of(uid: u32, passwd: &str) -> Option<String> {
    let mut entries = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(uid)))?;
    entry.get(5).filter(|home| !home.is_empty()).map(|&home| home.to_owned())
}

/// The file that a shell would run for `name`; messages as Go's `os/exec` words them.
fn find_program(name: &OsStr, path: &[u8]) -> Outcome<PathBuf> {
    let says =
        |errno: i32, text: String| Failure { step: "exec".into(), errno, message: format!("exec: {:?}: {text}", name.to_string_lossy()) };
    let usable = |file: &Path| -> io::Result<()> {
        let meta = std::fs::metadata(file)?;
        if meta.is_dir() {
            return Err(io::Error::from_raw_os_error(21));
        }
        sys::is_executable(&sys::c_path(file)?)
    };
    if name.as_bytes().contains(&b'/') {
        let file = PathBuf::from(name);
        return match usable(&file) {
            Ok(()) => Ok(file),
            Err(error) if error.raw_os_error() == Some(2) => Err(says(2, format!("stat {}: {}", file.display(), describe(&error)))),
            Err(error) => Err(says(error.raw_os_error().unwrap_or(0), describe(&error))),
        };
    }
    let mut refused = None;
    for dir in path.split(|&byte| byte == b':') {
        let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
        let file = dir.join(name);
        match usable(&file) {
            Ok(()) => return Ok(file),
            Err(error) if error.raw_os_error() == Some(13) => refused = Some(error),
            Err(_) => {}
        }
    }
    Err(match refused {
        Some(error) => says(13, describe(&error)),
        None => says(2, "executable file not found in $PATH".to_owned()),
    })
}
