//! The disk behind a real mount: what a program sees of each fault. Needs root and `/dev/fuse`; fails, never skips, without.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use trierarch_faultfs::FaultFs;

const MIB: u64 = 1 << 20;

fn mounted(run: impl FnOnce(&FaultFs, &Path)) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = FaultFs::mount(directory.path(), 64 * MIB).expect("root can mount");
    run(&disk, directory.path());
}

fn code<T>(outcome: std::io::Result<T>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

#[test]
fn files_and_directories_behave() {
    mounted(|_, root| {
        fs::create_dir_all(root.join("a/b")).unwrap();
        let path = root.join("a/b/file");
        fs::write(&path, vec![7; 300_000]).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"end").unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[300_000..]), (300_003, &b"end"[..]));
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.set_len(10).unwrap();
        file.write_all_at(b"x", 19).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 20);
        fs::hard_link(&path, root.join("link")).unwrap();
        fs::rename(&path, root.join("moved")).unwrap();
        assert_eq!(fs::read(root.join("link")).unwrap(), fs::read(root.join("moved")).unwrap());
        assert_eq!(code(fs::read(&path)), Some(Errno::ENOENT as i32));
        for number in 0..500 {
            File::create(root.join(format!("a/b/{number}"))).unwrap();
        }
        assert_eq!(fs::read_dir(root.join("a/b")).unwrap().count(), 500);
        assert_eq!(code(fs::remove_dir(root.join("a/b"))), Some(Errno::ENOTEMPTY as i32));
        fs::remove_dir_all(root.join("a")).unwrap();
        let mut left: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["link", "moved"]);
    });
}

#[test]
fn a_power_cut_shows_at_once_to_whoever_looks_again() {
    mounted(|disk, root| {
        let mut log = File::create(root.join("log")).unwrap();
        log.write_all(b"synced").unwrap();
        log.sync_data().unwrap();
        log.write_all(b" and not").unwrap();
        fs::write(root.join("never"), b"x").unwrap();
        assert_eq!(fs::read(root.join("log")).unwrap(), b"synced and not");
        disk.disk().cut_power(|most| most.min(4));
        assert_eq!(fs::read(root.join("log")).unwrap(), b"synced and");
        // its name had reached the disk
        assert_eq!(fs::read(root.join("never")).unwrap(), b"x");
        disk.disk().cut_power(|_| 0);
        assert_eq!(fs::metadata(root.join("log")).unwrap().len(), 10);
    });
}

#[test]
fn a_failed_sync_is_an_input_output_error() {
    mounted(|disk, root| {
        let mut log = File::create(root.join("7.log")).unwrap();
        log.write_all(b"one").unwrap();
        disk.disk().fail_syncs(".log", 1);
        assert_eq!(code(log.sync_all()), Some(Errno::EIO as i32));
        log.sync_all().unwrap();
        assert_eq!(fs::read(root.join("7.log")).unwrap(), b"one");
        disk.disk().cut_power(|_| 0);
        assert!(fs::read(root.join("7.log")).unwrap().is_empty());
    });
}

#[test]
fn a_slow_sync_holds_up_nobody_else() {
    mounted(|disk, root| {
        let log = File::create(root.join("log")).unwrap();
        let delay = Duration::from_millis(300);
        disk.disk().slow_syncs(delay);
        #[expect(clippy::disallowed_methods, reason = "measures how long a sync takes")]
        let start = Instant::now();
        let waiting = std::thread::spawn(move || log.sync_all());
        fs::write(root.join("other"), b"x").unwrap();
        assert!(start.elapsed() < delay, "the write waited for the sync");
        waiting.join().unwrap().unwrap();
        assert!(start.elapsed() >= delay);
    });
}

#[test]
fn a_full_disk_says_so() {
    mounted(|disk, root| {
        let mut file = File::create(root.join("a")).unwrap();
        file.write_all(&[1; 8192]).unwrap();
        let used = disk.disk().used_bytes();
        disk.disk().set_capacity(used);
        assert_eq!(code(file.write_all(&[1; 1])), Some(Errno::ENOSPC as i32));
        assert_eq!(code(File::create(root.join("b"))), Some(Errno::ENOSPC as i32));
        assert_eq!(nix::sys::statvfs::statvfs(root).unwrap().blocks_available(), 0);
        disk.disk().set_capacity(used + MIB);
        file.write_all(&[1; 1]).unwrap();
        assert_eq!(nix::sys::statvfs::statvfs(root).unwrap().blocks_available() * 4096, MIB - 4096);
    });
}

#[test]
fn a_flipped_bit_reaches_an_open_file() {
    mounted(|disk, root| {
        fs::write(root.join("a"), b"abc").unwrap();
        let mut file = File::open(root.join("a")).unwrap();
        file.sync_all().unwrap();
        disk.disk().flip(Path::new("a"), 0, 0x20).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "Abc");
    });
}
