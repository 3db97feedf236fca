//! The pod's shared namespaces: made once, held as descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::process::join_cgroup;
use crate::protocol::{Failure, SandboxPlan, decode, encode};
use crate::sys;
use crate::tree::{Outcome, describe, failure};

/// Namespaces that outlive every container of the pod.
#[derive(Default)]
pub(crate) struct Sandbox {
    pub(crate) user: Option<OwnedFd>,
    /// Who root of the user namespace is outside of it.
    pub(crate) owner: (u32, u32),
    pub(crate) network: Option<OwnedFd>,
    pub(crate) ipc: Option<OwnedFd>,
    pub(crate) uts: Option<OwnedFd>,
    /// A mount namespace whose only mount, its root, is the pod's `/dev/shm`.
    pub(crate) shm: Option<OwnedFd>,
    /// Of the pause process, with a shared PID namespace.
    pub(crate) pid: Option<OwnedFd>,
    pub(crate) pause_pid: Option<i32>,
}

fn namespace(pid: i32, kind: &str) -> Outcome<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from).map_err(failure("namespace", format!("opening the {kind} namespace")))
}

/// Makes the namespaces in a helper process, keeps descriptors of them, lets the helper go.
pub(crate) fn set_up(plan: &SandboxPlan) -> Outcome<(Sandbox, Vec<String>)> {
    let says = || failure("namespace", "making namespaces");
    let (ours, theirs) = sys::packet_pair().map_err(says())?;
    let helper = sys::clone3(0, None).map_err(says())?;
    if helper == 0 {
        drop(ours);
        let text = match build(plan, &theirs) {
            Ok(warnings) => [b"K".to_vec(), encode(&warnings)].concat(),
            Err(failure) => [b"E".to_vec(), encode(&failure)].concat(),
        };
        let _ = sys::send_with_fds(theirs.as_fd(), &text, &[]);
        // The namespaces must live until they are held.
        let _ = sys::read_some(theirs.as_fd(), &mut [0]);
        sys::exit_now(0);
    }
    drop(theirs);
    let result = collect(plan, helper, &ours);
    let _ = sys::write_some(ours.as_fd(), b"D");
    drop(ours);
    let _ = sys::wait_for(helper);
    let (mut sandbox, warnings) = result?;
    if plan.share_pid {
        start_pause(plan, &mut sandbox)?;
    }
    Ok((sandbox, warnings))
}

fn collect(plan: &SandboxPlan, helper: i32, ours: &OwnedFd) -> Outcome<(Sandbox, Vec<String>)> {
    let lost = || Failure { step: "namespace".into(), errno: 0, message: "the process that makes namespaces died".into() };
    let mut buffer = vec![0; 65536];
    loop {
        let got = sys::read_some(ours.as_fd(), &mut buffer).map_err(failure("namespace", "making namespaces"))?;
        match buffer[..got].split_first() {
            // In its user namespace, waiting for the maps.
            Some((b'U', _)) => {
                write_maps(plan, helper).map_err(failure("namespace", "mapping user ids"))?;
                sys::write_some(ours.as_fd(), b"M").map_err(failure("namespace", "mapping user ids"))?;
            }
            Some((b'K', rest)) => {
                let mut sandbox = Sandbox::default();
                if !plan.uid_map.is_empty() {
                    sandbox.user = Some(namespace(helper, "user")?);
                    let root = |map: &[(u32, u32, u32)]| {
                        map.iter().find(|(inside, _, _)| *inside == 0).map_or(u32::MAX, |(_, outside, _)| *outside)
                    };
                    sandbox.owner = (root(&plan.uid_map), root(&plan.gid_map));
                }
                if plan.new_network {
                    sandbox.network = Some(namespace(helper, "net")?);
                }
                if plan.new_ipc {
                    sandbox.ipc = Some(namespace(helper, "ipc")?);
                }
                if plan.new_uts {
                    sandbox.uts = Some(namespace(helper, "uts")?);
                }
                if plan.shm_size_bytes > 0 {
                    sandbox.shm = Some(namespace(helper, "mnt")?);
                }
                return Ok((sandbox, decode(rest).unwrap_or_default()));
            }
            Some((b'E', rest)) => return Err(decode(rest).unwrap_or_else(lost)),
            _ => return Err(lost()),
        }
    }
}

fn write_maps(plan: &SandboxPlan, helper: i32) -> io::Result<()> {
    for (file, map) in [("uid_map", &plan.uid_map), ("gid_map", &plan.gid_map)] {
        let text: String = map.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect();
        std::fs::write(format!("/proc/{helper}/{file}"), text)?;
    }
    Ok(())
}

/// In the helper.
fn build(plan: &SandboxPlan, to_shim: &OwnedFd) -> Outcome<Vec<String>> {
    let mut warnings = Vec::new();
    if !plan.uid_map.is_empty() {
        sys::leave_namespaces(sys::CLONE_NEWUSER).map_err(failure("namespace", "making a user namespace"))?;
        sys::send_with_fds(to_shim.as_fd(), b"U", &[]).map_err(failure("namespace", "mapping user ids"))?;
        sys::read_some(to_shim.as_fd(), &mut [0]).map_err(failure("namespace", "mapping user ids"))?;
        sys::set_gid(0).map_err(failure("namespace", "becoming root of the user namespace"))?;
        sys::set_uid(0).map_err(failure("namespace", "becoming root of the user namespace"))?;
    }
    let mut kinds = 0;
    for (wanted, kind) in [(plan.new_network, sys::CLONE_NEWNET), (plan.new_ipc, sys::CLONE_NEWIPC), (plan.new_uts, sys::CLONE_NEWUTS)] {
        kinds |= if wanted { kind } else { 0 };
    }
    sys::leave_namespaces(kinds).map_err(failure("namespace", "making namespaces"))?;
    if plan.new_uts && !plan.hostname.is_empty() {
        sys::set_hostname(&plan.hostname).map_err(failure("namespace", "sethostname"))?;
    }
    if plan.new_uts && !plan.domainname.is_empty() {
        sys::set_domainname(&plan.domainname).map_err(failure("namespace", "setdomainname"))?;
    }
    if plan.new_network
        && let Err(error) = sys::raise_loopback()
    {
        warnings.push(format!("lo was not set up: {}", describe(&error)));
    }
    for (name, value) in &plan.sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::write(&path, value).map_err(failure("sysctl", format!("open {path}")))?;
    }
    if plan.shm_size_bytes > 0 {
        make_shm(plan.shm_size_bytes, &plan.scratch_dir).map_err(failure("namespace", "making the pod's /dev/shm"))?;
    }
    Ok(warnings)
}

fn make_shm(size_bytes: u64, scratch: &Path) -> io::Result<()> {
    sys::leave_namespaces(sys::CLONE_NEWNS)?;
    sys::mount_classic("", Path::new("/"), "", sys::MS_REC | sys::MS_PRIVATE, b"")?;
    let options = [("size".to_owned(), size_bytes.to_string()), ("mode".to_owned(), "1777".to_owned())];
    let shm = sys::new_filesystem(
        "tmpfs",
        &options,
        crate::protocol::attr::NOSUID | crate::protocol::attr::NODEV | crate::protocol::attr::NOEXEC,
    )?;
    let point = sys::openat2(None, scratch, sys::O_PATH | sys::O_DIRECTORY, 0, 0)?;
    sys::move_mount(shm.as_fd(), point.as_fd())?;
    let root = sys::openat2(None, scratch, sys::O_PATH | sys::O_DIRECTORY, 0, 0)?;
    sys::change_dir(root.as_fd())?;
    sys::pivot_root(c".", c".")?;
    sys::unmount(c".", sys::MNT_DETACH)
}

/// PID 1 of the shared PID namespace: this program again, with `pause` as its name and no rights.
fn start_pause(plan: &SandboxPlan, sandbox: &mut Sandbox) -> Outcome<()> {
    let program = File::open("/proc/self/exe").map_err(failure("pause", "opening the shim's program"))?;
    let pid = sys::clone3(sys::CLONE_NEWPID, None).map_err(failure("pause", "starting the pause process"))?;
    if pid == 0 {
        let prepare = || -> Outcome<()> {
            sys::reset_signals();
            sys::new_session().map_err(failure("pause", "setsid"))?;
            join_cgroup(&plan.cgroup)?;
            for (fd, kind) in [(&sandbox.network, sys::CLONE_NEWNET), (&sandbox.ipc, sys::CLONE_NEWIPC), (&sandbox.uts, sys::CLONE_NEWUTS)]
            {
                if let Some(fd) = fd {
                    sys::enter_namespace(fd.as_fd(), kind).map_err(failure("pause", "entering namespaces"))?;
                }
            }
            if let Some(shm) = &sandbox.shm {
                sys::enter_namespace(shm.as_fd(), sys::CLONE_NEWNS).map_err(failure("pause", "entering namespaces"))?;
            }
            sys::close_others_on_exec().map_err(failure("pause", "closing descriptors"))?;
            // Root without a single capability, also after exec.
            for bit in 0..64 {
                let _ = sys::process_control(sys::prctl_option::CAPBSET_DROP, bit, 0, 0);
            }
            sys::set_capabilities(0, 0, 0).map_err(failure("pause", "dropping capabilities"))
        };
        if prepare().is_ok() {
            let _ = sys::execute_fd(&program, &[c"/pause".to_owned()]);
        }
        sys::exit_now(1);
    }
    sandbox.pid = Some(namespace(pid, "pid")?);
    sandbox.pause_pid = Some(pid);
    Ok(())
}
