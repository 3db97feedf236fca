//! Measures create + start + delete of one container in a ready sandbox, and of a whole sandbox with a container. Needs root.
//!
//! `cargo run --release -p trierarch-runtime --example lifecycle -- [rounds]`

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use trierarch_runtime::spec::{RootfsSpec, Seccomp};
use trierarch_runtime::{ContainerSpec, ExecSpec, Runtime, RuntimeConfig, SandboxSpec};

fn main() -> Result<(), Box<dyn Error>> {
    let rounds: u32 = std::env::args().nth(1).map_or(Ok(200), |text| text.parse())?;
    let dir = std::env::temp_dir().join(format!("tritest-lifecycle-{}", std::process::id()));
    let image = dir.join("image");
    std::fs::create_dir_all(image.join("bin"))?;
    std::fs::copy("/bin/busybox", image.join("bin/busybox"))?;
    let sys = trierarch_runtime::sys::linux();
    let parent = format!("tritest-lifecycle-{}", std::process::id());
    let runtime = Runtime::new(RuntimeConfig { root_dir: dir.join("state"), cgroup_parent: parent, sys })?;
    let sandbox =
        |id: &str| SandboxSpec { id: id.to_owned(), hostname: id.to_owned(), log_dir: dir.join("logs"), ..SandboxSpec::default() };
    let container = |id: String| ContainerSpec {
        rootfs: RootfsSpec::overlay(vec![image.clone()], dir.join(&id).join("upper"), dir.join(&id).join("work")),
        args: ["/bin/busybox", "sleep", "1000"].map(str::to_owned).to_vec(),
        log_path: format!("{id}.log").into(),
        seccomp: Seccomp::RuntimeDefault,
        id,
        ..ContainerSpec::default()
    };
    runtime.create_sandbox(sandbox("pod"))?;
    let (mut starts, mut whole, mut pods) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let id = format!("c{round}");
        let spec = container(id.clone());
        let begin = clock();
        runtime.create_container("pod", spec)?;
        runtime.start_container(&id)?;
        starts.push(begin.elapsed());
        runtime.remove_container(&id)?;
        whole.push(begin.elapsed());
    }
    for round in 0..rounds.div_ceil(4) {
        let (pod, id) = (format!("p{round}"), format!("d{round}"));
        let spec = container(id.clone());
        let begin = clock();
        runtime.create_sandbox(sandbox(&pod))?;
        runtime.create_container(&pod, spec)?;
        runtime.start_container(&id)?;
        pods.push(begin.elapsed());
        runtime.remove_sandbox(&pod)?;
    }
    runtime.create_container("pod", container("execs".to_owned()))?;
    runtime.start_container("execs")?;
    let mut execs = Vec::new();
    for _ in 0..rounds {
        let begin = clock();
        runtime.exec_sync("execs", ExecSpec::command(["/bin/busybox", "true"]), None, 1024)?;
        execs.push(begin.elapsed());
    }
    runtime.purge()?;
    report("exec to its end", &mut execs);
    report("container create + start", &mut starts);
    report("container create + start + delete", &mut whole);
    report("sandbox and container, create + start", &mut pods);
    clean(&dir)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn clock() -> Instant {
    Instant::now()
}

#[expect(clippy::print_stdout, reason = "the figures are what it is for")]
fn report(name: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{name}: p50 {:?}, p99 {:?}, {} rounds", at(50), at(99), times.len());
}

fn clean(dir: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
