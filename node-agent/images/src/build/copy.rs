//! COPY and ADD: finding the sources, and writing them into the image's tree.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open};
use nix::sys::stat::{Mode, SFlag};
use sha2::{Digest as _, Sha256};
use trierarch_runtime::resolve::open_below;

use super::glob;
use super::ignore::Ignore;
use crate::compression::decompress;
use crate::digest::Digest;
use crate::tree::{Attributes, Tree, TreePath, finish_file};
use crate::unpack::{Whiteouts, extract_archive};

/// One source of a COPY: a file, a directory, a link.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its name in a destination that is a directory.
    pub(crate) name: String,
    /// Its content is copied, not the directory itself.
    pub(crate) directory: bool,
    /// Itself, or what is in it, parents first.
    pub(crate) entries: Vec<SourceEntry>,
}

#[derive(Debug)]
pub(crate) struct SourceEntry {
    /// Relative to the source; empty for a source that is a file.
    pub(crate) name: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) meta: fs::Metadata,
}

/// What a COPY or ADD does with its sources.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    /// Absolute, with a slash at the end if it was written so.
    pub(crate) destination: String,
    /// Owner of everything; `None` keeps the sources' (COPY --from).
    pub(crate) owner: Option<(u32, u32)>,
    /// Owner of what archives hold; `None` keeps the archive's, since a root file system has many.
    pub(crate) archive_owner: Option<(u32, u32)>,
    pub(crate) mode: Option<u32>,
    /// ADD: archives are extracted.
    pub(crate) extract: bool,
    /// Files that stand in the Containerfile.
    pub(crate) inline: Vec<(String, String)>,
}

/// The files that patterns stand for, sorted. A pattern that fits nothing is an error.
pub(crate) fn find_sources(root: &Path, patterns: &[String], ignore: Option<&Ignore>) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for pattern in patterns {
        let parts: Vec<String> = TreePath::clamp(pattern.as_bytes())
            .to_path()
            .to_string_lossy()
            .split('/')
            .filter(|part| *part != ".")
            .map(str::to_owned)
            .collect();
        let mut names = vec![String::new()];
        for part in &parts {
            names = names
                .iter()
                .map(|name| expand_part(root, name, part))
                .collect::<io::Result<Vec<_>>>()
                .map_err(|error| format!("{pattern}: {error}"))?
                .concat();
        }
        let found = sources.len();
        for name in names {
            let Some(path) = resolve(root, &name) else { continue };
            let meta = fs::symlink_metadata(&path).map_err(|error| format!("{name}: {error}"))?;
            let hidden = |name: &str| ignore.is_some_and(|ignore| !name.is_empty() && ignore.hides(name));
            let descend = meta.is_dir() && (!hidden(&name) || ignore.is_some_and(Ignore::has_exceptions));
            let mut entries = Vec::new();
            if descend {
                walk(&path, Path::new(""), &name, &hidden, ignore.is_some_and(Ignore::has_exceptions), &mut entries)
                    .map_err(|error| format!("{name}: {error}"))?;
            } else if !meta.is_dir() && !hidden(&name) {
                entries.push(SourceEntry { name: PathBuf::new(), path, meta: meta.clone() });
            }
            if hidden(&name) && entries.is_empty() {
                continue;
            }
            let base = name.rsplit('/').next().unwrap_or_default().to_owned();
            sources.push(Source { name: base, directory: meta.is_dir(), entries });
        }
        if sources.len() == found {
            return Err(match glob::is_pattern(pattern) {
                true => format!("no source files were specified: {pattern:?} fits nothing"),
                false => format!("failed to calculate checksum of {pattern:?}: not found"),
            });
        }
    }
    Ok(sources)
}

/// A digest of names, kinds, modes and content; not of times, which a checkout changes.
pub(crate) fn digest_of(sources: &[Source]) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    for source in sources {
        hasher.update(format!("{}\0{}\0", source.name, source.directory));
        for entry in &source.entries {
            hasher.update(entry.name.as_os_str().as_bytes());
            hasher.update(format!(
                "\0{:o}\0{}\0{}\0",
                entry.meta.mode(),
                if entry.meta.is_file() { entry.meta.len() } else { 0 },
                entry.meta.rdev()
            ));
            if entry.meta.is_symlink() {
                hasher.update(fs::read_link(&entry.path)?.as_os_str().as_bytes());
            } else if entry.meta.is_file() {
                let mut file = File::open(&entry.path)?;
                loop {
                    let count = file.read(&mut buffer)?;
                    if count == 0 {
                        break;
                    }
                    hasher.update(&buffer[..count]);
                }
            }
        }
        hasher.update([0xff]);
    }
    Ok(Digest::from_hasher(hasher))
}

/// Writes the sources into the tree at `root`.
pub(crate) fn place(root: &Path, sources: &[Source], placement: &Placement) -> Result<(), String> {
    let mut tree = Tree::open(root, &[]).map_err(|error| error.to_string())?;
    let destination = TreePath::clamp(placement.destination.as_bytes());
    let into_directory = placement.destination.ends_with('/')
        || placement.destination.ends_with("/.")
        || sources.len() + placement.inline.len() > 1
        || destination.is_root()
        || tree.leads_to_directory(&destination);
    let mut writer = Writer { tree: &mut tree, root, placement };
    for source in sources {
        let target = if into_directory && !source.directory { destination.join(source.name.as_ref()) } else { destination.clone() };
        writer.source(source, &target)?;
    }
    for (name, content) in &placement.inline {
        let target = if into_directory { destination.join(name.as_ref()) } else { destination.clone() };
        writer.inline(&target, content)?;
    }
    Ok(())
}

struct Writer<'a> {
    tree: &'a mut Tree,
    root: &'a Path,
    placement: &'a Placement,
}

impl Writer<'_> {
    fn source(&mut self, source: &Source, target: &TreePath) -> Result<(), String> {
        if source.directory {
            self.directory(target, &Attributes { mode: self.placement.mode.unwrap_or(0o755), ..self.owned(0, 0) })?;
        } else if self.placement.extract
            && let [entry] = source.entries.as_slice()
            && self.extract(entry, target)?
        {
            return Ok(());
        }
        for entry in &source.entries {
            let path = match entry.name.as_os_str().is_empty() {
                true => target.clone(),
                false => entry.name.iter().fold(target.clone(), |path, part| path.join(part)),
            };
            self.entry(entry, &path).map_err(|problem| format!("{}: {problem}", entry.path.display()))?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &SourceEntry, path: &TreePath) -> Result<(), String> {
        let meta = &entry.meta;
        let kind = meta.file_type();
        let mut attributes = Attributes {
            mode: self.placement.mode.unwrap_or(meta.mode() & 0o7777),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ..self.owned(meta.uid(), meta.gid())
        };
        if kind.is_dir() {
            return self.directory(path, &attributes);
        }
        if kind.is_socket() {
            return Ok(());
        }
        if self.tree.leads_to_directory(path) && !kind.is_symlink() {
            return Err(format!("cannot replace the directory /{} by a file", path.to_path().display()));
        }
        let failed = |error: io::Error| error.to_string();
        if kind.is_symlink() {
            let target = fs::read_link(&entry.path).map_err(failed)?;
            return self.tree.symlink(path, target.as_os_str().as_bytes(), &attributes).map_err(failed);
        }
        if kind.is_file() {
            if self.placement.owner.is_none() {
                attributes.xattrs = image_attributes(&entry.path).map_err(failed)?;
            }
            let mut from = File::open(&entry.path).map_err(failed)?;
            let mut to = self.tree.create_file(path).map_err(failed)?;
            io::copy(&mut from, &mut to).map_err(failed)?;
            return finish_file(&to, &attributes).map_err(failed);
        }
        let flag = match kind {
            kind if kind.is_fifo() => SFlag::S_IFIFO,
            kind if kind.is_block_device() => SFlag::S_IFBLK,
            _ => SFlag::S_IFCHR,
        };
        let device = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
        self.tree.special(path, flag, device, &attributes).map_err(failed)
    }

    /// A directory that is there, even by way of a link, stays as it is.
    fn directory(&mut self, path: &TreePath, attributes: &Attributes) -> Result<(), String> {
        if path.is_root() || self.tree.leads_to_directory(path) {
            return Ok(());
        }
        if self.tree.stat(path).map_err(|error| error.to_string())?.is_some() {
            return Err(format!("cannot replace the file /{} by a directory", path.to_path().display()));
        }
        self.tree.directory(path, attributes).map_err(|error| error.to_string())
    }

    fn inline(&mut self, path: &TreePath, content: &str) -> Result<(), String> {
        let attributes = Attributes { mode: self.placement.mode.unwrap_or(0o644), ..self.owned(0, 0) };
        let outcome = self.tree.create_file(path).and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            finish_file(&file, &attributes)
        });
        outcome.map_err(|error| error.to_string())
    }

    /// Extracts an archive; `false` if the file is none.
    fn extract(&mut self, entry: &SourceEntry, target: &TreePath) -> Result<bool, String> {
        if !entry.meta.is_file() || !is_archive(&entry.path) {
            return Ok(false);
        }
        // `ADD rootfs.tar /dir` means /dir itself, whether it ends with a slash or not.
        let target = if self.placement.destination.ends_with('/')
            || self.tree.leads_to_directory(&TreePath::clamp(self.placement.destination.as_bytes()))
        {
            TreePath::clamp(self.placement.destination.as_bytes())
        } else {
            target.clone()
        };
        self.directory(&target, &Attributes { mode: 0o755, ..self.owned(0, 0) })?;
        let file = File::open(&entry.path).map_err(|error| error.to_string())?;
        let mut plain = decompress(file).map_err(|error| error.to_string())?;
        extract_archive(&mut plain, self.root, &[], &target, Whiteouts::Literal, self.placement.archive_owner)
            .map_err(|error| crate::error::chain(&error))?;
        Ok(true)
    }

    fn owned(&self, uid: u32, gid: u32) -> Attributes {
        let (uid, gid) = self.placement.owner.unwrap_or((uid, gid));
        Attributes { uid, gid, ..Attributes::default() }
    }
}

/// Whether a file is a tar archive, plain or packed.
pub(crate) fn is_archive(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(decompress).and_then(|plain| plain.take(512).read_to_end(&mut head));
    read.is_ok()
        && head.len() == 512
        && (head[257..262] == *b"ustar" || tar::Header::from_byte_slice(&head).cksum().is_ok_and(|sum| is_old_header(&head, sum)))
}

/// Archives older than ustar have only their checksum to be known by.
fn is_old_header(head: &[u8], sum: u32) -> bool {
    let computed: u32 = head.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    sum != 0 && sum == computed
}

fn image_attributes(path: &Path) -> io::Result<Vec<(std::ffi::OsString, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in xattr::list(path)? {
        if (name == "security.capability" || name.as_bytes().starts_with(b"user."))
            && let Some(value) = xattr::get(path, &name)?
        {
            found.push((name, value));
        }
    }
    Ok(found)
}

/// The names that fit one more part of a pattern below `name`.
fn expand_part(root: &Path, name: &str, part: &str) -> io::Result<Vec<String>> {
    let join = |child: &str| if name.is_empty() { child.to_owned() } else { format!("{name}/{child}") };
    if !glob::is_pattern(part) {
        return Ok(vec![join(part)]);
    }
    let Some(directory) = resolve(root, name).filter(|path| path.is_dir()) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        if let Ok(child) = entry?.file_name().into_string()
            && glob::matches_component(part.as_bytes(), child.as_bytes())
        {
            names.push(join(&child));
        }
    }
    names.sort();
    Ok(names)
}

/// Where a name leads to, links followed inside the root only.
fn resolve(root: &Path, name: &str) -> Option<PathBuf> {
    let base = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let how =
        OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = open_below(&base, if name.is_empty() { "." } else { name }, how).ok()?;
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()
}

/// Lists a directory's content, parents first, sorted. Directories that are hidden appear only if something in them does not.
fn walk(
    path: &Path,
    name: &Path,
    full: &str,
    hidden: &dyn Fn(&str) -> bool,
    exceptions: bool,
    out: &mut Vec<SourceEntry>,
) -> io::Result<()> {
    let mut children: Vec<_> = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>()?;
    children.sort();
    for child in children {
        let path = path.join(&child);
        let full = if full.is_empty() { child.to_string_lossy().into_owned() } else { format!("{full}/{}", child.to_string_lossy()) };
        let meta = fs::symlink_metadata(&path)?;
        let unseen = hidden(&full);
        if unseen && !(meta.is_dir() && exceptions) {
            continue;
        }
        let name = name.join(&child);
        let is_dir = meta.is_dir();
        let at = out.len();
        out.push(SourceEntry { name: name.clone(), path: path.clone(), meta });
        if is_dir {
            walk(&path, &name, &full, hidden, exceptions, out)?;
            if unseen && out.len() == at + 1 {
                out.pop();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{archive, file, gzip};

    fn names(sources: &[Source]) -> Vec<String> {
        sources
            .iter()
            .flat_map(|source| source.entries.iter().map(move |entry| format!("{}:{}", source.name, entry.name.display())))
            .collect()
    }

    fn context() -> tempfile::TempDir {
        let context = tempfile::Builder::new().prefix("tritest-context-").tempdir().unwrap();
        for (name, content) in [("a.txt", "a"), ("b.txt", "b"), ("src/main.c", "m"), ("src/deep/x.o", "o"), ("src/keep.o", "k")] {
            let path = context.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", context.path().join("escape")).unwrap();
        std::os::unix::fs::symlink("src", context.path().join("alias")).unwrap();
        context
    }

    fn find(context: &Path, patterns: &[&str], ignore: &str) -> Result<Vec<Source>, String> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        find_sources(context, &patterns, Some(&Ignore::parse(ignore)))
    }

    #[test]
    fn sources_are_found_sorted_and_filtered() {
        let context = context();
        let found = |patterns: &[&str], ignore: &str| names(&find(context.path(), patterns, ignore).unwrap());
        assert_eq!(found(&["*.txt"], ""), ["a.txt:", "b.txt:"]);
        assert_eq!(found(&["src"], ""), ["src:deep", "src:deep/x.o", "src:keep.o", "src:main.c"]);
        assert_eq!(found(&["/src/../alias/main.c"], ""), ["main.c:"]);
        assert_eq!(found(&["src"], "**/*.o\n!src/keep.o"), ["src:deep", "src:keep.o", "src:main.c"]);
        assert_eq!(found(&["src"], "src\n!src/main.c"), ["src:main.c"]);
        assert_eq!(found(&["../../b.txt"], ""), ["b.txt:"], "nothing is above the context");
        assert!(find(context.path(), &["none"], "").unwrap_err().contains("\"none\""));
        assert!(find(context.path(), &["*.rs"], "").unwrap_err().contains("fits nothing"));
        assert!(find(context.path(), &["a.txt"], "*.txt").is_err(), "an ignored file is not there");
        assert!(find(context.path(), &["escape"], "").is_err(), "a link out of the context leads nowhere");
    }

    #[test]
    fn the_digest_sees_content_modes_and_names_but_no_times() {
        let context = context();
        let digest = || digest_of(&find(context.path(), &["src", "a.txt"], "").unwrap()).unwrap();
        let before = digest();
        File::options().append(true).open(context.path().join("a.txt")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(digest(), before);
        fs::write(context.path().join("a.txt"), "A").unwrap();
        let changed = digest();
        assert_ne!(changed, before);
        fs::rename(context.path().join("src/main.c"), context.path().join("src/name.c")).unwrap();
        assert_ne!(digest(), changed);
    }

    #[test]
    fn archives_are_known_by_their_content() {
        let context = context();
        let plain = archive(&[file("x", b"y")]);
        for (name, content) in [("plain", plain.clone()), ("packed", gzip(&plain))] {
            fs::write(context.path().join(name), content).unwrap();
            assert!(is_archive(&context.path().join(name)), "{name}");
        }
        fs::write(context.path().join("text.gz"), gzip(&[b'a'; 2000])).unwrap();
        assert!(!is_archive(&context.path().join("text.gz")) && !is_archive(&context.path().join("a.txt")));
    }
}
