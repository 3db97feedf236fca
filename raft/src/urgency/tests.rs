use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::*;

const STARVED: Seen = Seen { is_starved: true, has_waited: false };
const WAITED: Seen = Seen { is_starved: false, has_waited: true };
const NOTHING: Seen = Seen { is_starved: false, has_waited: false };

#[test]
fn a_thread_is_starved_that_could_run_and_did_not() {
    let look = |is_runnable, ran_ns| Look { is_runnable, ran_ns, waited_ns: 0 };
    assert_eq!(look(true, 5).seen_since(look(true, 5)), STARVED);
    assert_eq!(look(true, 5).seen_since(look(false, 5)), NOTHING, "it may have woken up just now");
    assert_eq!(look(true, 6).seen_since(look(true, 5)), NOTHING);
    assert_eq!(look(false, 5).seen_since(look(false, 5)), NOTHING);
    let waited = |waited_ns| Look { is_runnable: false, ran_ns: 5, waited_ns };
    assert_eq!(waited(7 + WAIT_MIN_NS).seen_since(waited(7)), WAITED);
    assert_eq!(waited(6 + WAIT_MIN_NS).seen_since(waited(7)), NOTHING);
}

/// How many looks threads are real-time when they are starved after so many calm looks.
fn raised(urgency: &mut Urgency, calm: u32) -> u32 {
    for _ in 0..calm {
        assert_eq!(urgency.decide(NOTHING), None);
    }
    assert_eq!(urgency.decide(STARVED), Some(Change::Raise));
    let mut looks = 1;
    while urgency.decide(STARVED).is_none() {
        looks += 1;
    }
    looks
}

#[test]
fn what_is_starved_again_at_once_is_raised_for_longer() {
    let mut urgency = Urgency::CALM;
    let again: Vec<u32> = (0..8).map(|_| raised(&mut urgency, 3)).collect();
    assert_eq!(again, [13, 26, 52, 104, 208, 416, 800, 800]);
    assert_eq!(raised(&mut urgency, 799), 800);
    assert_eq!(raised(&mut urgency, 800), 13, "it was calm for as long as they were raised");
}

#[test]
fn looks_are_close_to_each_other_for_a_minute_after_a_wait() {
    let mut urgency = Urgency::CALM;
    urgency.decide(NOTHING);
    assert_eq!(urgency.pause(), CALM_LOOK_INTERVAL);
    assert_eq!(urgency.decide(WAITED), None, "who waited has run since");
    for _ in 0..LOOKS_ALERT {
        assert_eq!(urgency.pause(), LOOK_INTERVAL);
        urgency.decide(NOTHING);
    }
    assert_eq!(urgency.pause(), CALM_LOOK_INTERVAL);
    urgency.decide(STARVED);
    assert_eq!(urgency.pause(), LOOK_INTERVAL);
}

proptest! {
    #[test]
    fn whoever_is_raised_is_lowered(starved in prop::collection::vec(any::<bool>(), 0..3000)) {
        let (mut urgency, mut is_raised, mut looks) = (Urgency::CALM, false, 0);
        for is_starved in starved {
            match urgency.decide(Seen { is_starved, has_waited: false }) {
                Some(Change::Raise) => {
                    prop_assert!(!is_raised && is_starved);
                    (is_raised, looks) = (true, 0);
                }
                Some(Change::Lower) => {
                    prop_assert!(is_raised);
                    is_raised = false;
                }
                None => prop_assert!(is_raised || !is_starved, "a starved thread is raised at once"),
            }
            looks += u32::from(is_raised);
            prop_assert!(looks <= LOOKS_RAISED_MAX);
            prop_assert!(!is_raised || urgency.pause() == LOOK_INTERVAL, "else they would be raised for longer");
        }
    }
}

fn stay_on_first_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(0);
    sched_setaffinity(None, &cpus).unwrap();
}

fn is_real_time() -> bool {
    matches!(thread_schedule_policy(), Ok(Realtime(_)))
}

/// Whether the machine lets this process have real-time threads; root may not everywhere.
fn may_be_real_time() -> bool {
    let tries = std::thread::spawn(|| {
        schedule(thread_native_id(), REAL_TIME);
        is_real_time()
    });
    tries.join().unwrap()
}

/// A thread that wants to run on the first core, which a real-time thread never leaves, gets there.
#[test]
fn a_starved_thread_becomes_real_time_and_ordinary_again() {
    if !may_be_real_time() {
        return;
    }
    let has_core = Arc::new(AtomicBool::new(false));
    let hog = {
        let ends = Arc::clone(&has_core);
        std::thread::spawn(move || {
            stay_on_first_cpu();
            schedule(thread_native_id(), REAL_TIME);
            while !ends.load(Ordering::Relaxed) {}
        })
    };
    let watched = std::thread::spawn(move || {
        stay_on_first_cpu();
        watch_this_thread();
        while !is_real_time() {}
        has_core.store(true, Ordering::Relaxed);
        while is_real_time() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        thread_native_id()
    });
    let id = watched.join().unwrap();
    hog.join().unwrap();
    assert!(THREADS.lock().watched.iter().all(|thread| thread.id != id), "it has ended");
}

#[test]
fn what_a_real_time_thread_starts_can_be_ordinary() {
    let started = std::thread::spawn(|| {
        schedule(thread_native_id(), REAL_TIME);
        let began = is_real_time();
        let then = std::thread::spawn(|| {
            let began = is_real_time();
            share_cores();
            (began, is_real_time())
        });
        (began, then.join().unwrap())
    });
    let may = may_be_real_time();
    assert_eq!(started.join().unwrap(), (may, (may, false)));
}
