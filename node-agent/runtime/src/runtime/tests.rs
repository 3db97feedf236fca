//! What is left when a call fails: nothing. Needs root, like everything that makes namespaces.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Runtime, RuntimeConfig};
use crate::cgroup::Cgroups;
use crate::error::Error;
use crate::spec::{ContainerSpec, ExecSpec, RootfsSpec, SandboxSpec};
use crate::sys::fake::Fake;

struct World {
    runtime: Runtime,
    fake: Arc<Fake>,
    dir: tempfile::TempDir,
}

impl World {
    fn new(name: &str) -> World {
        let (fake, dir) = (Fake::new(), tempfile::Builder::new().prefix("tritest").tempdir().unwrap());
        let parent = format!("tritest-unit-{name}-{}", std::process::id());
        let config = RuntimeConfig { root_dir: dir.path().join("state"), cgroup_parent: parent, sys: fake.clone() };
        World { runtime: Runtime::new(config).unwrap(), fake, dir }
    }

    /// The same on the v2 hierarchy, which has no controllers on a hybrid machine.
    fn unified(name: &str) -> World {
        let (fake, dir) = (Fake::new(), tempfile::Builder::new().prefix("tritest").tempdir().unwrap());
        let parent = format!("tritest-unit-{name}-{}", std::process::id());
        let mount =
            ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new).into_iter().find(|dir| dir.join("cgroup.controllers").exists());
        let cgroups = Cgroups::v2_at(mount.expect("a v2 hierarchy"), &parent, fake.clone());
        let config = RuntimeConfig { root_dir: dir.path().join("state"), cgroup_parent: parent, sys: fake.clone() };
        World { runtime: Runtime::with_cgroups(config, cgroups).unwrap(), fake, dir }
    }

    fn spec() -> SandboxSpec {
        SandboxSpec { id: "pod".into(), hostname: "box".into(), ..SandboxSpec::default() }
    }

    fn state(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("state")).unwrap().count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        *self.fake.fail.lock() = None;
        let purged = self.runtime.purge();
        if !std::thread::panicking() {
            purged.unwrap();
        }
    }
}

#[test]
fn a_failed_sandbox_leaves_nothing() {
    let world = World::new("sandbox");
    for call in ["create_dir", "listen", "spawn_shim", "connect", "send"] {
        *world.fake.fail.lock() = Some(call);
        let error = world.runtime.create_sandbox(World::spec()).unwrap_err();
        assert!(!matches!(error, Error::Cleanup { .. }), "{call}: {error}");
        assert_eq!((world.state(), world.runtime.list_sandboxes().len()), (0, 0), "{call}");
        *world.fake.fail.lock() = None;
    }
    assert_eq!(*world.fake.failures.lock(), ["create_dir", "listen", "spawn_shim", "connect", "send"]);
    // And the name is free again.
    world.runtime.create_sandbox(World::spec()).unwrap();
    assert!(matches!(world.runtime.create_sandbox(World::spec()), Err(Error::AlreadyExists { .. })));
}

#[test]
fn a_failed_container_can_be_made_again() {
    let world = World::new("container");
    world.runtime.create_sandbox(World::spec()).unwrap();
    let spec = ContainerSpec {
        id: "c".into(),
        args: vec!["x".into()],
        rootfs: RootfsSpec::directory(world.dir.path()),
        ..ContainerSpec::default()
    };
    *world.fake.fail.lock() = Some("create_dir");
    assert!(matches!(world.runtime.create_container("pod", spec.clone()), Err(Error::Io { .. })));
    *world.fake.fail.lock() = None;
    world.runtime.create_container("pod", spec).unwrap();
    *world.fake.fail.lock() = Some("connect");
    assert!(matches!(world.runtime.start_container("c"), Err(Error::Shim { .. })));
    *world.fake.fail.lock() = None;
    assert_eq!(world.runtime.container("c").unwrap().exit.unwrap().code, 128);
    world.runtime.remove_container("c").unwrap();
}

#[test]
fn wrong_names_are_refused() {
    let world = World::new("names");
    for id in ["", "../x", "a/b", ".hidden", "ä"] {
        let spec = SandboxSpec { id: id.into(), ..World::spec() };
        assert!(matches!(world.runtime.create_sandbox(spec), Err(Error::InvalidSpec { .. })), "{id:?}");
    }
    let spec = SandboxSpec { cgroup: "../../other".into(), ..World::spec() };
    assert!(matches!(world.runtime.create_sandbox(spec), Err(Error::InvalidSpec { .. })));
    assert!(matches!(world.runtime.stop_sandbox("none"), Err(Error::SandboxNotFound { .. })));
    assert!(world.runtime.remove_sandbox("none").is_ok() && world.runtime.remove_container("none").is_ok());
}

#[test]
fn the_v2_hierarchy_serves_as_well() {
    let world = World::unified("v2");
    let image = world.dir.path().join("image");
    std::fs::create_dir_all(image.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
    world.runtime.create_sandbox(World::spec()).unwrap();
    let args = ["/bin/busybox", "sleep", "1000"].map(str::to_owned).to_vec();
    let spec = ContainerSpec { id: "c".into(), args, rootfs: RootfsSpec::directory(image), ..ContainerSpec::default() };
    world.runtime.create_container("pod", spec).unwrap();
    let pid = world.runtime.start_container("c").unwrap().pid.unwrap();
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroups.lines().any(|line| line.starts_with("0::/tritest-unit-v2") && line.ends_with("/pods/pod/c")), "{cgroups}");
    let shown = |args: &[&str]| {
        let done = world.runtime.exec_sync("c", ExecSpec::command(args.iter().copied()), Some(Duration::from_secs(20)), 1 << 16).unwrap();
        (String::from_utf8(done.stdout).unwrap(), done.exit_code)
    };
    // Its own cgroup is the root of what it sees, an exec is in it, and it can not open the host's devices.
    assert_eq!(shown(&["/bin/busybox", "cat", "/sys/fs/cgroup/cgroup.procs"]).0.lines().count(), 2);
    assert_eq!(shown(&["/bin/busybox", "sh", "-c", "/bin/busybox mknod /dev/k c 1 11 && : < /dev/k"]).1, 1);
    world.runtime.stop_container("c", None, Duration::ZERO).unwrap();
    world.runtime.remove_sandbox("pod").unwrap();
    assert_eq!(world.state(), 0);
}
