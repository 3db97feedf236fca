use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use proptest::prelude::*;
use tar::EntryType;

use super::*;
use crate::testing::{TarEntry, archive, dir, file, link};
use crate::tree::OPAQUE;

fn root() -> tempfile::TempDir {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: layers hold owners and devices");
    tempfile::Builder::new().prefix("tritest-unpack-").tempdir().unwrap()
}

fn extract(entries: &[TarEntry<'_>], root: &Path, lower: &[PathBuf]) -> Result<u64, ExtractError> {
    unpack(&mut &archive(entries)[..], root, lower)
}

#[test]
fn owners_modes_times_and_attributes_survive() {
    let root = root();
    let entries = [
        dir("./"),
        TarEntry { mode: 0o4755, uid: 1000, ..file("bin/su", b"program") },
        TarEntry {
            pax: vec![("SCHILY.xattr.user.note", b"hello"), ("mtime", b"1600000000.5"), ("uid", b"70000")],
            ..file("etc/note", b"")
        },
        link(EntryType::Symlink, "sbin", "/bin"),
        link(EntryType::Link, "bin/other", "bin/su"),
        TarEntry { kind: EntryType::Char, mode: 0o666, ..file("null", b"") },
        TarEntry { kind: EntryType::Fifo, mode: 0o600, ..file("pipe", b"") },
        TarEntry { mode: 0o1777, ..dir("tmp/") },
        file("tmp/late", b"x"),
    ];
    assert_eq!(extract(&entries, root.path(), &[]).unwrap(), 8);
    let meta = |name: &str| fs::symlink_metadata(root.path().join(name)).unwrap();
    let su = meta("bin/su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime(), su.nlink()), (0o4755, 1000, 1000, 1_700_000_000, 2));
    let note = meta("etc/note");
    assert_eq!((note.uid(), note.mtime(), note.mtime_nsec()), (70_000, 1_600_000_000, 500_000_000));
    assert_eq!(xattr::get(root.path().join("etc/note"), "user.note").unwrap().unwrap(), b"hello");
    assert_eq!(fs::read_link(root.path().join("sbin")).unwrap(), Path::new("/bin"));
    assert!(meta("null").file_type().is_char_device() && meta("null").rdev() == nix::sys::stat::makedev(1, 3));
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!((meta("tmp").mode() & 0o7777, meta("tmp").mtime()), (0o1777, 1_700_000_000), "the time is set after the content");
}

#[test]
fn whiteouts_become_what_overlayfs_understands() {
    let (lower, upper) = (root(), root());
    extract(
        &[dir("d/"), file("d/gone", b"1"), file("d/kept", b"2"), dir("o/"), file("o/hidden", b"3"), file("f", b"4")],
        lower.path(),
        &[],
    )
    .unwrap();
    let entries = [
        dir("d/"),
        file("d/.wh.gone", b""),
        dir("o/"),
        file("o/.wh..wh..opq", b""),
        file("o/new", b"5"),
        file(".wh.f", b""),
        file("f/inside", b"6"),
        file(".wh..wh.plnk", b""),
        file(".wh.never", b""),
    ];
    extract(&entries, upper.path(), &[lower.path().to_owned()]).unwrap();
    let gone = fs::symlink_metadata(upper.path().join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(xattr::get(upper.path().join("o"), OPAQUE).unwrap().unwrap(), b"y");
    assert!(!upper.path().join(".wh..wh.plnk").exists());

    // The kernel is the judge.
    let (work, merged) = (root(), root());
    let options = format!("lowerdir={}:{}", upper.path().display(), lower.path().display());
    nix::mount::mount(Some("tritest"), merged.path(), Some("overlay"), nix::mount::MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
    let names = |name: &str| crate::lease::file_names(&merged.path().join(name)).unwrap();
    let outcome = (names("d"), names("o"), names("f"), names(""));
    nix::mount::umount(merged.path()).unwrap();
    drop(work);
    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(outcome, (text(&["kept"]), text(&["new"]), text(&["inside"]), text(&["d", "f", "o"])));
}

#[test]
fn an_entry_of_the_same_layer_is_not_hidden_by_a_whiteout() {
    let (lower, upper) = (root(), root());
    extract(&[file("a", b"old"), dir("d/"), file("d/old", b"")], lower.path(), &[]).unwrap();
    extract(
        &[file("a", b"new"), file(".wh.a", b""), file(".wh.d", b""), dir("d/"), file("d/new", b"")],
        upper.path(),
        &[lower.path().to_owned()],
    )
    .unwrap();
    assert_eq!(fs::read(upper.path().join("a")).unwrap(), b"new");
    assert_eq!(xattr::get(upper.path().join("d"), OPAQUE).unwrap().unwrap(), b"y", "a directory in place of a removed one starts empty");
}

#[test]
fn missing_parents_look_like_those_below() {
    let (lower, upper) = (root(), root());
    extract(&[TarEntry { mode: 0o2750, uid: 33, ..dir("var/") }], lower.path(), &[]).unwrap();
    extract(&[file("var/x/y", b"")], upper.path(), &[lower.path().to_owned()]).unwrap();
    let var = fs::metadata(upper.path().join("var")).unwrap();
    assert_eq!((var.mode() & 0o7777, var.uid()), (0o2750, 33));
    assert_eq!(fs::metadata(upper.path().join("var/x")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let root = root();
    let entries = [
        dir("a/"),
        file("a/b", b"1"),
        file("a", b"file now"),
        file("c", b"2"),
        dir("c/"),
        file("c/d", b"3"),
        link(EntryType::Symlink, "e", "c"),
        dir("e/"),
        file("e/f", b"4"),
    ];
    extract(&entries, root.path(), &[]).unwrap();
    assert_eq!(fs::read(root.path().join("a")).unwrap(), b"file now");
    assert_eq!(fs::read(root.path().join("c/d")).unwrap(), b"3");
    assert!(!root.path().join("c/f").exists() && root.path().join("e/f").exists());
}

#[test]
fn nothing_leaves_the_root() {
    let outside = root();
    fs::write(outside.path().join("secret"), b"untouched").unwrap();
    let target = outside.path().display().to_string();
    let secret = format!("{target}/secret");
    let mode = fs::metadata(outside.path()).unwrap().mode();
    let up = format!("l{}", "/..".repeat(20) + &secret);
    let cases: Vec<(Vec<TarEntry<'_>>, bool)> = vec![
        (vec![file("../evil", b"x")], false),
        (vec![file("a/../../evil", b"x")], false),
        (vec![link(EntryType::Link, "h", "../../etc/passwd")], false),
        (vec![link(EntryType::Symlink, "l", &target), file("l/evil", b"x")], false),
        (vec![link(EntryType::Symlink, "l", "../../../../../../../../"), file("l/evil", b"x")], true),
        (vec![link(EntryType::Symlink, "l", &secret), file("l", b"x")], true),
        (vec![link(EntryType::Symlink, "l", &target), link(EntryType::Link, "h", "l/secret")], false),
        (vec![link(EntryType::Symlink, "l", &target), TarEntry { mode: 0o711, ..dir("l/") }], true),
        (vec![file(&up, b"x")], false),
        (vec![file("/absolute", b"x")], true),
    ];
    for (number, (entries, works)) in cases.iter().enumerate() {
        let root = root();
        let outcome = extract(entries, root.path(), &[]);
        assert_eq!(outcome.is_ok(), *works, "case {number}: {outcome:?}");
        let names: Vec<String> = crate::lease::file_names(outside.path()).unwrap();
        assert_eq!(names, ["secret"], "case {number}: {outcome:?}");
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"untouched", "case {number}");
        assert_eq!(fs::metadata(outside.path()).unwrap().mode(), mode, "case {number}");
        assert_eq!(fs::metadata(outside.path().join("secret")).unwrap().nlink(), 1, "case {number}");
    }
}

#[test]
fn broken_archives_are_refused_with_a_reason() {
    let root = root();
    let whole = archive(&[file("a", &[7; 5000])]);
    let error = unpack(&mut &whole[..2000], root.path(), &[]).unwrap_err();
    assert!(matches!(error, ExtractError::Archive(_)), "{error:?}");
    let error = extract(&[link(EntryType::Link, "h", "absent")], root.path(), &[]).unwrap_err();
    assert_eq!(error.to_string(), "entry \"h\" is a hard link to \"absent\", which is not in this layer");
}

#[test]
fn pax_times_have_fractions_and_signs() {
    assert_eq!(pax_time(b"12.5"), Some((12, 500_000_000)));
    assert_eq!(pax_time(b"-1.25"), Some((-2, 750_000_000)));
    assert_eq!(pax_time(b"7"), Some((7, 0)));
    assert_eq!(pax_time(b"x"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any mixture of directories, links and files with hostile names changes nothing beside the root.
    #[test]
    fn random_archives_stay_inside(plan in proptest::collection::vec((0_u8..4, "(\\.\\.|a|b|l|/|\\.){1,6}", "(\\.\\./|/|a|b|l|tmp){1,6}"), 1..12)) {
        let base = root();
        let inside = base.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::write(base.path().join("a"), b"guard").unwrap();
        fs::create_dir(base.path().join("b")).unwrap();
        let entries: Vec<TarEntry<'_>> = plan.iter().map(|(kind, name, target)| match kind {
            0 => dir(name),
            1 => link(EntryType::Symlink, name, target),
            2 => link(EntryType::Link, name, target),
            _ => file(name, b"data"),
        }).collect();
        let _may_fail = extract(&entries, &inside, &[]);
        prop_assert_eq!(crate::lease::file_names(base.path()).unwrap(), ["a", "b", "inside"]);
        prop_assert_eq!(fs::read(base.path().join("a")).unwrap(), b"guard");
        prop_assert!(crate::lease::file_names(&base.path().join("b")).unwrap().is_empty());
    }
}
