//! Where the process gets its randomness: on a thread that simulates, from the seed.
//!
//! Hash maps, random ids, openraft's time-outs and tokio's `select!` and watch channels all begin with `getrandom`. This program's own
//! definition of that symbol stands in for the C library's, so none of them needs to know of the simulation. tokio numbers its runtimes
//! for the whole process, so a run repeats exactly only as the first one of a process: [`crate::run`] is given a process per seed.

use std::cell::RefCell;
use std::ffi::{c_uint, c_void};
use std::fs::File;
use std::io::Read as _;

use crate::dice::Dice;

thread_local! {
    static DICE: RefCell<Option<Dice>> = const { RefCell::new(None) };
}

/// From now on everything random on this thread comes from `seed`.
pub fn seed_this_thread(seed: u64) {
    DICE.with(|dice| *dice.borrow_mut() = Some(Dice::new(seed)));
}

/// Fills `bytes`; whether that succeeded.
fn fill(bytes: &mut [u8]) -> bool {
    let seeded = DICE.try_with(|dice| {
        let Some(dice) = &mut *dice.borrow_mut() else { return false };
        for chunk in bytes.chunks_mut(8) {
            let random = dice.next().to_le_bytes();
            chunk.copy_from_slice(random.get(..chunk.len()).unwrap_or(&random));
        }
        true
    });
    // other threads, RocksDB's for one, get the real thing
    seeded == Ok(true) || File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes)).is_ok()
}

/// `Spec:` getrandom(2).
///
/// # Safety
/// `buffer` is valid for writes of `length` bytes.
#[expect(unsafe_code, reason = "the symbol of the C library that it replaces")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: c_uint) -> isize {
    if length == 0 {
        return 0;
    }
    // SAFETY: the caller says that the buffer is that long
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    if fill(bytes) { isize::try_from(length).unwrap_or(isize::MAX) } else { -1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_maps_and_ids_come_from_the_seed() {
        let draw = |seed| {
            let drawing = move || {
                seed_this_thread(seed);
                let order: Vec<u32> = (0..20).collect::<std::collections::HashSet<u32>>().into_iter().collect();
                (order, trierarch_raft::TxnId::random())
            };
            std::thread::spawn(drawing).join().unwrap()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        // and are random elsewhere
        assert_ne!(trierarch_raft::TxnId::random(), trierarch_raft::TxnId::random());
    }
}
