//! Paths that the kernel resolves inside a root (`Spec:` openat2(2)).

use std::os::fd::{AsFd, OwnedFd};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{OpenHow, openat2};

/// Attempts, as renames that race come one after the other on a busy machine.
const ATTEMPTS_MAX: usize = 10_000;

/// Opens a path below a directory as `how` says. A `..` (of a link) that races with a rename or a mount anywhere on the machine makes the
/// kernel give up with EAGAIN; it is asked again then.
///
/// # Errors
/// What the kernel says; EAGAIN only after many attempts.
pub fn open_below<P: ?Sized + NixPath>(directory: impl AsFd, path: &P, how: OpenHow) -> nix::Result<OwnedFd> {
    until_settled(|| openat2(directory.as_fd(), path, how))
}

fn until_settled<T>(mut attempt: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    let mut outcome = attempt();
    for _ in 1..ATTEMPTS_MAX {
        if !matches!(outcome, Err(Errno::EAGAIN)) {
            break;
        }
        outcome = attempt();
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_again_while_it_gives_up() {
        let check = |busy: usize, expected: nix::Result<usize>, asked: usize| {
            let mut count = 0;
            let outcome = until_settled(|| {
                count += 1;
                if count <= busy { Err(Errno::EAGAIN) } else { Ok(count) }
            });
            assert_eq!((outcome, count), (expected, asked));
        };
        check(0, Ok(1), 1);
        check(5, Ok(6), 6);
        check(ATTEMPTS_MAX, Err(Errno::EAGAIN), ATTEMPTS_MAX);
        let mut count = 0;
        let refused: nix::Result<()> = until_settled(|| {
            count += 1;
            Err(Errno::ENOENT)
        });
        assert_eq!((refused, count), (Err(Errno::ENOENT), 1), "other errors are final");
    }
}
