use std::fs;
use std::os::unix::fs::MetadataExt;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::progress::Event;
use crate::testing::{TarEntry, archive, dir, file, gzip, link, store, store_with};

/// A context of files, built into a store.
struct World {
    context: tempfile::TempDir,
    _directory: tempfile::TempDir,
    store: Store,
    options: BuildOptions,
    events: Arc<Mutex<Vec<Event>>>,
}

impl World {
    fn new(containerfile: &str, files: &[(&str, &[u8])]) -> Self {
        let (directory, store) = store();
        Self::over(directory, store, containerfile, files)
    }

    fn over(directory: tempfile::TempDir, store: Store, containerfile: &str, files: &[(&str, &[u8])]) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: it mounts overlays");
        let context = tempfile::Builder::new().prefix("tritest-build-").tempdir().unwrap();
        let options = BuildOptions {
            context: context.path().to_owned(),
            tags: vec![Reference::parse("built:1").unwrap()],
            ..BuildOptions::default()
        };
        let world = Self { context, _directory: directory, store, options, events: Arc::default() };
        world.write("Containerfile", containerfile.as_bytes());
        for (name, content) in files {
            world.write(name, content);
        }
        world
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.context.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    async fn build(&self) -> Result<Image, BuildError> {
        self.events.lock().clear();
        let events = Arc::clone(&self.events);
        build(&self.store, &self.options, Progress::new(move |event| events.lock().push(event))).await
    }

    /// The steps of the last build; cached ones begin with `=`.
    fn steps(&self) -> Vec<String> {
        let events = self.events.lock();
        let steps = events.iter().filter_map(|event| match event {
            Event::Step { number, total, text, cached } => Some(format!("{}{number}/{total} {text}", if *cached { "=" } else { "" })),
            _ => None,
        });
        steps.collect()
    }

    async fn error(&self) -> String {
        crate::error::chain(&self.build().await.unwrap_err())
    }

    /// Looks at the image's whole tree.
    fn see<T: Send>(&self, image: &Image, look: impl FnOnce(&Path) -> T + Send) -> T {
        let lower = self.store.prepare(image).unwrap();
        let directory = tempfile::tempdir_in(self.store.root()).unwrap();
        overlay::with_mounts(&lower, None, &overlay::Workspace::create(directory.path()).unwrap(), |views| look(views.merged)).unwrap()
    }

    fn config(&self, image: &Image) -> Value {
        serde_json::from_slice(&self.store.read_blob(&image.id).unwrap()).unwrap()
    }
}

#[tokio::test]
async fn a_root_file_system_becomes_an_image() {
    let rootfs = archive(&[
        dir("./"),
        dir("etc/"),
        file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n"),
        TarEntry { mode: 0o4755, uid: 7, ..file("bin/su", b"x") },
        link(tar::EntryType::Symlink, "lib", "usr/lib"),
        dir("usr/lib/"),
    ]);
    let world = World::new(
        "FROM scratch\nADD rootfs.tar.gz /\nCOPY --chown=web --chmod=750 app.sh /srv/bin/\nCOPY lib.so /lib/\nENV GREETING=\"hello world\" HOME=/srv\n\
         WORKDIR $HOME/data\nUSER web\nEXPOSE 80\nLABEL a=\"b c\"\nENTRYPOINT [\"/srv/bin/app.sh\"]\nCMD [\"--go\"]\nHEALTHCHECK NONE\n",
        &[("rootfs.tar.gz", &gzip(&rootfs)), ("app.sh", b"#!/bin/sh"), ("lib.so", b"so")],
    );
    let image = world.build().await.unwrap();
    world.see(&image, |root| {
        let su = fs::metadata(root.join("bin/su")).unwrap();
        assert_eq!((su.mode() & 0o7777, su.uid()), (0o4755, 7), "an archive keeps its owners");
        let app = fs::metadata(root.join("srv/bin/app.sh")).unwrap();
        assert_eq!((app.mode() & 0o7777, app.uid(), app.gid()), (0o750, 101, 102));
        assert_eq!(fs::read(root.join("usr/lib/lib.so")).unwrap(), b"so", "links in the image are followed");
        assert!(fs::symlink_metadata(root.join("lib")).unwrap().is_symlink());
        assert!(root.join("srv/data").is_dir());
    });
    let config = world.config(&image);
    assert_eq!(
        config["config"],
        json!({
            "Env": ["GREETING=hello world", "HOME=/srv"], "WorkingDir": "/srv/data", "User": "web", "ExposedPorts": { "80/tcp": {} },
            "Labels": { "a": "b c" }, "Entrypoint": ["/srv/bin/app.sh"], "Cmd": ["--go"],
        })
    );
    assert_eq!(image.layers.len(), 4, "ADD, COPY, COPY, WORKDIR");
    assert!(world.events.lock().iter().any(|event| matches!(event, Event::Notice { text } if text.contains("HEALTHCHECK"))));
    assert_eq!(world.steps()[2], "3/12 COPY --chown=web --chmod=750 app.sh /srv/bin/");
}

#[tokio::test]
async fn unchanged_steps_come_from_the_cache() {
    let world = World::new("FROM scratch\nCOPY a /a\nCOPY b /b\nENV X=1\n", &[("a", b"1"), ("b", b"1")]);
    let first = world.build().await.unwrap();
    let second = world.build().await.unwrap();
    assert_eq!(world.steps(), ["1/4 FROM scratch", "=2/4 COPY a /a", "=3/4 COPY b /b", "4/4 ENV X=1"]);
    assert_eq!(first.id, second.id, "the same image, the same ID");
    world.write("b", b"2");
    let third = world.build().await.unwrap();
    assert_eq!(world.steps()[1..3], ["=2/4 COPY a /a", "3/4 COPY b /b"]);
    assert_eq!((&third.layers[0], third.layers[1] == first.layers[1]), (&first.layers[0], false));
    world.store.gc(crate::clock::now()).unwrap();
    world.build().await.unwrap();
    assert_eq!(world.steps()[2], "=3/4 COPY b /b", "collection keeps the cache");
    assert!(world.store.clear_build_cache().unwrap() >= 3);
    world.build().await.unwrap();
    assert_eq!(world.steps()[1], "2/4 COPY a /a");
}

#[tokio::test]
async fn stages_hand_files_on() {
    let base = archive(&[dir("etc/"), file("etc/base", b"b"), TarEntry { uid: 33, ..file("owned", b"o") }]);
    let (directory, store) = store_with("k.io/base:1", &[&base]);
    let world = World::over(
        directory,
        store,
        "ARG TAG=none\nFROM k.io/base:$TAG AS one\nARG TAG\nCOPY x /out/$TAG\nFROM scratch AS skipped\nCOPY nothing /\nFROM scratch\n\
         COPY --from=one /out /copied\nCOPY --from=k.io/base:1 /etc/* /owned /from-image/\nCOPY --from=0 /owned /o2\n",
        &[("x", b"1")],
    );
    let world = World { options: BuildOptions { args: BTreeMap::from([("TAG".into(), "1".into())]), ..world.options.clone() }, ..world };
    let image = world.build().await.unwrap();
    world.see(&image, |root| {
        assert_eq!(fs::read(root.join("copied/1")).unwrap(), b"1");
        assert_eq!(fs::read(root.join("from-image/base")).unwrap(), b"b");
        assert_eq!(fs::metadata(root.join("from-image/owned")).unwrap().uid(), 33, "another stage's owners are kept");
        assert_eq!(fs::metadata(root.join("o2")).unwrap().uid(), 33);
        assert!(!root.join("etc").exists());
    });
    assert_eq!(world.steps().iter().filter(|step| step.contains("skipped")).count(), 0);
    let first = World { options: BuildOptions { target: Some("one".into()), ..world.options.clone() }, ..world };
    assert_eq!(first.build().await.unwrap().layers.len(), 2);
}

#[tokio::test]
async fn equal_inputs_give_equal_digests_everywhere() {
    let containerfile = "FROM scratch\nCOPY src /app/\nWORKDIR /app/x\n";
    let files: &[(&str, &[u8])] = &[("src/a", b"1"), ("src/deep/b", b"2"), (".dockerignore", b"*.log\n**/c"), ("src/c", b"ignored")];
    let mut digests = BTreeSet::new();
    for seconds in [2_000_000_000_u64, 2_100_000_000] {
        let world = World::new(containerfile, files);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::open(world.context.path().join("src/a")).unwrap().set_modified(time).unwrap();
        let world = World { options: BuildOptions { source_date_epoch: Some(1_000_000), ..world.options.clone() }, ..world };
        let image = world.build().await.unwrap();
        world.see(&image, |root| assert!(!root.join("app/c").exists() && root.join("app/deep/b").exists()));
        assert_eq!(world.config(&image)["created"], "1970-01-12T13:46:40Z");
        digests.insert(image.target);
    }
    assert_eq!(digests.len(), 1);
}

#[tokio::test]
async fn problems_name_file_and_line() {
    for (containerfile, expected) in [
        ("FROM scratch\nCOPY none /\n", "Containerfile:2: failed to calculate checksum of \"none\": not found"),
        ("FROM scratch\n\nRUN x\n", "Containerfile:3: RUN needs a container runtime, and none was given"),
        ("FROM scratch\nENV A=${B:?missing}\n", "Containerfile:2: B: missing"),
        ("FROM Upper/x:y:z\n", "Containerfile:1: Upper/x:y:z: invalid reference format"),
        ("FROM scratch\nCOPY --chmod=rwx x /\n", "Containerfile:2: invalid chmod parameter: \"rwx\" must be octal"),
        ("FROM scratch\nCOPY x /d/\nCOPY x /d\nCOPY dir /d/x\n", "Containerfile:4: cannot replace the file /d/x by a directory"),
        ("FROM scratch\nCOPY x /.wh.x\n", "build: read the changes in"),
        (
            "FROM scratch\nCOPY --chown=nobody x /\n",
            "Containerfile:2: invalid user: unable to find user nobody: no matching entries in passwd file",
        ),
    ] {
        let world = World::new(containerfile, &[("x", b"1"), ("dir/f", b"2")]);
        let error = world.error().await;
        assert!(error.starts_with(expected), "{containerfile}: {error}");
        assert!(world.store.names().unwrap().is_empty());
        let left = crate::lease::file_names(&world.store.path("layers")).unwrap();
        assert!(left.iter().all(|name| !world.store.path("layers").join(name).join("upper").exists()), "{left:?}");
    }
    let world = World::new("FROM localhost:1/none:1\n", &[]);
    assert!(world.error().await.starts_with("Containerfile:1: localhost:1/none:1: failed to pull"), "{}", world.error().await);
    fs::remove_file(world.context.path().join("Containerfile")).unwrap();
    assert!(world.error().await.contains("Dockerfile"));
}

#[tokio::test]
async fn heredocs_and_inherited_settings_work() {
    let world = World::new(
        "FROM scratch AS base\nENV A=1\nCMD [\"base\"]\nARG X=lost\nFROM base\nCOPY <<one <<\"two\" /etc/\nA is $A\none\nB\ntwo\nLABEL x=\"$X\"\nENTRYPOINT [\"e\"]\n",
        &[],
    );
    let image = world.build().await.unwrap();
    world.see(&image, |root| {
        assert_eq!(fs::read_to_string(root.join("etc/one")).unwrap(), "A is 1\n");
        assert_eq!(fs::read_to_string(root.join("etc/two")).unwrap(), "B\n");
    });
    let config = world.config(&image);
    assert_eq!((&config["config"]["Cmd"], &config["config"]["Entrypoint"]), (&Value::Null, &json!(["e"])));
    assert_eq!(config["config"]["Labels"]["x"], "", "an argument ends with its stage");
}

/// Leaves nothing of a test's runtime on the machine, also when the test fails.
struct Purged(Arc<trierarch_runtime::Runtime>);

impl Drop for Purged {
    fn drop(&mut self) {
        if let Err(error) = self.0.purge() {
            eprintln!("could not purge the test's runtime: {error}");
        }
    }
}

/// RUN in a real container. Needs `/bin/busybox` (Debian package busybox-static).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_in_the_image_and_leave_only_their_changes() {
    let busybox = fs::read("/bin/busybox").expect("busybox is there; install the Debian package busybox-static");
    let world = World::new(
        "FROM scratch\nCOPY --chmod=755 busybox /bin/\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nCOPY passwd /etc/\nRUN mkdir -m 1777 /tmp\n\
         ENV NAME=world\nARG WHO=builder\nWORKDIR /work\nRUN echo \"hello $NAME from $WHO\" | tee greeting; echo gone > gone; echo oops >&2\nRUN rm gone\n\
         USER web\nRUN id -u > /tmp/uid && pwd >> /tmp/uid\n",
        &[("busybox", &busybox), ("passwd", b"root:x:0:0::/:/bin/sh\nweb:x:101:102::/:/bin/sh\n")],
    );
    let state = tempfile::Builder::new().prefix("tritest-runtime-").tempdir().unwrap();
    let parent = format!("tritest-images-{}", std::process::id());
    let config = trierarch_runtime::RuntimeConfig {
        root_dir: state.path().join("state"),
        cgroup_parent: parent,
        sys: trierarch_runtime::sys::linux(),
    };
    let runtime = Arc::new(trierarch_runtime::Runtime::new(config).unwrap());
    let _purged = Purged(Arc::clone(&runtime));
    let runner: Arc<dyn RunStep> = Arc::new(RuntimeRunner::new(runtime, state.path().join("logs")));
    let world = World { options: BuildOptions { runner: Some(runner), ..world.options.clone() }, ..world };
    let image = world.build().await.unwrap();
    let output: Vec<u8> = world
        .events
        .lock()
        .iter()
        .filter_map(|event| match event {
            Event::Output { bytes } => Some(bytes.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    let output = String::from_utf8(output).unwrap();
    assert!(output.contains("hello world from builder\n") && output.contains("oops\n"), "{output}");
    world.see(&image, |root| {
        assert_eq!(fs::read_to_string(root.join("work/greeting")).unwrap(), "hello world from builder\n");
        assert_eq!(fs::read_to_string(root.join("tmp/uid")).unwrap(), "101\n/work\n");
        assert!(!root.join("work/gone").exists());
        let names = crate::lease::file_names(root).unwrap();
        assert_eq!(names, ["bin", "etc", "tmp", "work"], "mount points leave nothing behind");
        assert_eq!(crate::lease::file_names(&root.join("etc")).unwrap(), ["passwd"]);
    });
    world.build().await.unwrap();
    assert!(world.steps().iter().filter(|step| step.contains("RUN")).all(|step| step.starts_with('=')), "{:?}", world.steps());
    world.write("Containerfile", b"FROM built:1\nUSER root\nRUN exit 7\n");
    assert_eq!(world.error().await, "Containerfile:3: the command '/bin/sh -c exit 7' returned a non-zero code: 7");
    world.write("Containerfile", b"FROM built:1\nRUN [\"/no/such\"]\n");
    let error = world.error().await;
    assert!(error.starts_with("Containerfile:2: ") && error.contains("/no/such"), "{error}");
}
