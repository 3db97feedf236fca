//! Single containers and builds with the real program, in real namespaces. Needs root and Debian's busybox-static.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A data directory of its own with an image `box:1`: busybox and links to it.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let world = Self { dir: tempfile::tempdir().unwrap() };
        let context = world.path("context");
        std::fs::create_dir(&context).unwrap();
        std::fs::copy("/bin/busybox", context.join("busybox")).expect("Debian package busybox-static");
        std::fs::write(
            context.join("Containerfile"),
            "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nRUN echo built > /proof\n",
        )
        .unwrap();
        world.good(&["build", "-t", "box:1", context.to_str().unwrap()]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trierarch"));
        command.args(args).env("TRIERARCH_DATA_DIR", self.path("data")).stdin(Stdio::null());
        command
    }

    fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The standard output of a call that succeeds.
    fn good(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status.success(), "{args:?}: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit code and the standard error of a call that fails.
    fn bad(&self, args: &[&str]) -> (i32, String) {
        let output = self.call(args);
        assert!(!output.status.success(), "{args:?} succeeded");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Fails if a container or a build of this world has left something.
    fn nothing_is_left(&self) {
        for place in ["data/local/runtime", "data/local/data"] {
            let left: Vec<_> = std::fs::read_dir(self.path(place)).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let builds: Vec<_> = std::fs::read_dir(self.path("data/builds")).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(builds, ["lock"], "what builds leave");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // also after a failed assertion
        let ids = self.call(&["ps", "-aq"]);
        for id in String::from_utf8_lossy(&ids.stdout).lines() {
            self.call(&["rm", "-f", id]);
        }
    }
}

/// Waits until something is true; what it waited for is said if it never is.
fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    for _ in 0..200 {
        if is_true() {
            return;
        }
        // a pause between two looks: nothing is ever sent
        let _pause = receiver.recv_timeout(Duration::from_millis(50));
    }
    drop(sender);
    panic!("waited in vain: {what}");
}

fn interrupt(child: &Child) {
    let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
}

#[test]
fn a_program_runs_and_its_output_and_exit_code_come_back() {
    let world = World::new();
    assert_eq!(world.good(&["run", "--rm", "box:1", "cat", "/proof"]), "built\n");
    let output = world.call(&["run", "--rm", "box:1", "sh", "-c", "echo out; echo err >&2; printf end; exit 7"]);
    assert_eq!((output.status.code(), output.stdout.as_slice(), output.stderr.as_slice()), (Some(7), &b"out\nend"[..], &b"err\n"[..]));
    let args = ["run", "--rm", "-e", "A=b c", "-w", "/tmp/new", "-u", "5:6", "--hostname", "here", "box:1"];
    let script = "echo $A; pwd; id -u; id -g; hostname; ip -o addr show eth0 | grep -c 10.89.; cat /etc/hostname";
    let seen = world.good(&[&args[..], &["sh", "-c", script]].concat());
    assert_eq!(seen, "b c\n/tmp/new\n5\n6\nhere\n1\nhere\n");
    world.nothing_is_left();
}

#[test]
fn standard_input_and_volumes_reach_the_container() {
    let world = World::new();
    std::fs::write(world.path("note"), "from here\n").unwrap();
    let volume = format!("{}:/mnt/note:ro", world.path("note").display());
    let mut child = world
        .command(&["run", "--rm", "-i", "-v", &volume, "box:1", "sh", "-c", "cat /mnt/note; cat; echo x > /mnt/note || echo refused"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "from here\ntyped\nrefused\n");
    let missing = world.path("missing").display().to_string();
    let (code, text) = world.bad(&["run", "--rm", "-v", &format!("{missing}:/x"), "box:1", "true"]);
    assert!(code == 125 && text.contains(&format!("cannot mount {missing}: no such file or directory")), "{code} {text}");
    world.nothing_is_left();
}

#[test]
fn what_cannot_run_is_said_with_the_usual_exit_code() {
    let world = World::new();
    let (code, text) = world.bad(&["run", "--rm", "box:1", "/nosuch"]);
    assert!(code == 127 && text.contains("no such file or directory"), "{code} {text}");
    let (code, text) = world.bad(&["run", "--rm", "box:1", "/proof"]);
    assert!(code == 126 && text.contains("permission denied"), "{code} {text}");
    let (code, text) = world.bad(&["run", "--rm", "127.0.0.1:1/nosuch:1"]);
    assert!(code == 125 && text.contains("cannot be pulled"), "{code} {text}");
    let (code, text) = world.bad(&["run", "--rm", "-p", "80", "box:1"]);
    assert!(code == 2 && text.contains("8080:80"), "{code} {text}");
    assert!(world.bad(&["exec", "nobody", "true"]).1.contains("no such container: nobody"));
    world.nothing_is_left();
}

#[test]
fn a_container_lives_in_the_background_until_it_is_stopped() {
    let world = World::new();
    let script = "trap 'echo bye; exit 3' TERM; echo begun; while :; do sleep 1 & wait $!; done";
    let id = world.good(&["run", "-d", "--name", "worker", "--memory", "64m", "--cpus", "0.5", "box:1", "sh", "-c", script]);
    let id = id.trim();
    let listed = world.good(&["ps"]);
    assert!(listed.contains(id) && listed.contains("worker") && listed.contains("Up "), "{listed}");
    assert!(world.bad(&["run", "-d", "--name", "worker", "box:1"]).1.contains("is taken by container"));
    eventually("the first line of output", || world.good(&["logs", "worker"]) == "begun\n");
    assert_eq!(world.good(&["exec", "-e", "X=y", "worker", "sh", "-c", "echo $X; hostname"]), "y\nworker\n");
    assert_eq!(world.bad(&["exec", &id[..6], "sh", "-c", "exit 9"]).0, 9);
    assert!(world.bad(&["rm", "worker"]).1.contains("runs: end it with"));
    world.good(&["stop", "worker"]);
    assert!(!world.good(&["ps"]).contains("worker"), "what has ended is not listed");
    let listed = world.good(&["ps", "-a"]);
    assert!(listed.contains("Exited (3)"), "{listed}");
    assert_eq!(world.good(&["logs", "-n", "1", "worker"]), "bye\n");
    world.good(&["rm", "worker"]);
    world.nothing_is_left();
}

#[test]
fn a_published_port_leads_to_the_container() {
    let world = World::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let publish = format!("{port}:8080");
    let serve = "echo hello > /index.html; exec httpd -f -p 8080 -h /";
    world.good(&["run", "-d", "--rm", "--name", "web", "-p", &publish, "box:1", "sh", "-c", serve]);
    let mut answer = String::new();
    eventually("an answer by the published port", || {
        answer.clear();
        TcpStream::connect(("127.0.0.1", port)).is_ok_and(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").is_ok() && stream.read_to_string(&mut answer).is_ok()
        })
    });
    assert!(answer.ends_with("hello\n"), "{answer}");
    let (code, text) = world.bad(&["run", "--rm", "-p", &publish, "box:1", "true"]);
    assert!(code == 125 && text.contains("cannot publish"), "{code} {text}");
    world.good(&["stop", "-t", "0", "web"]);
    eventually("its removal by --rm", || world.good(&["ps", "-aq"]).is_empty());
    eventually("an empty place", || std::fs::read_dir(world.path("data/local/data")).unwrap().next().is_none());
    world.nothing_is_left();
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let world = World::new();
    let context = world.path("slow");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Containerfile"), "FROM box:1\nRUN echo begun; sleep 1000\n").unwrap();
    let mut child = world.command(&["build", "-t", "slow:1", context.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    let mut seen = Vec::new();
    let mut stderr = child.stderr.take().unwrap();
    while !String::from_utf8_lossy(&seen).contains("\nbegun\n") {
        let mut piece = [0; 256];
        let count = stderr.read(&mut piece).unwrap();
        assert_ne!(count, 0, "the build ended early: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..count]);
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    world.nothing_is_left();
    assert!(!world.good(&["images", "-q"]).contains("slow"));
    let (code, text) = world.bad(&["build", "-t", "bad:1", write(&context, "FROM box:1\nRUN exit 3\n")]);
    assert!(code == 1 && text.contains("Containerfile:2:") && text.contains("returned a non-zero code: 3"), "{code} {text}");
    world.nothing_is_left();
}

fn write<'a>(context: &'a Path, text: &str) -> &'a str {
    std::fs::write(context.join("Containerfile"), text).unwrap();
    context.to_str().unwrap()
}
