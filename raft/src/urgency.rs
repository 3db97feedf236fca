//! Whether raft's threads get a core in time, and what is done when they do not: all of them are real-time for a while.
//!
//! Niceness counts among the threads of one session or control group only (sched(7), "The autogroup feature"). Beside other busy sessions raft's threads
//! have waited for up to 0.8 s, and a leader that says nothing for 0.3 s is not one any more. Real-time threads wait for nobody, but ones that always are
//! turn to every message by itself: a quarter to a third fewer puts a second (docs/decisions/0022).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use parking_lot::Mutex;
use thread_priority::ThreadSchedulePolicy::{Normal, Realtime};
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadId, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id, thread_schedule_policy,
};

/// How often is looked while threads have to wait at all: none waits for more than two of these, while the others take a leader for gone after twice as long.
const LOOK_INTERVAL: Duration = Duration::from_millis(75);
/// How often otherwise, for a machine that idles is to be left alone.
const CALM_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Whoever waited for so long since the last look, in ns, had to wait.
const WAIT_MIN_NS: u64 = 20_000_000;
/// So many looks after the last wait are still close to each other: a minute's.
const LOOKS_ALERT: u32 = 800;
/// For so many looks threads stay real-time: a second. What is starved again as soon as that is over gets twice as long, up to a minute.
const LOOKS_RAISED_MIN: u32 = 13;
const LOOKS_RAISED_MAX: u32 = 800;

/// `Spec:` sched(7), "SCHED_RR": before all that is not real-time. Of what is, the least.
const REAL_TIME: (ThreadSchedulePolicy, ThreadPriority) = (Realtime(RealtimeThreadSchedulePolicy::RoundRobin), ThreadPriority::Min);
/// As threads are that ask for nothing. Whoever was real-time has its niceness again; the priority becomes the niceness of whoever calls.
const SHARED: (ThreadSchedulePolicy, ThreadPriority) = (Normal(NormalThreadSchedulePolicy::Other), ThreadPriority::Max);

/// All threads that are watched in this process.
static THREADS: Mutex<Threads> = Mutex::new(Threads { watched: Vec::new(), urgency: Urgency::CALM, has_watcher: false });

thread_local! {
    static WATCHED: Watched = Watched::begin();
}

/// Watches this thread until it ends. Without the right to make it real-time, or where the kernel does not tell who waits, nothing happens.
pub(crate) fn watch_this_thread() {
    WATCHED.with(|_| ());
}

/// Makes this thread an ordinary one, if it was started by one that was real-time.
pub(crate) fn share_cores() {
    if matches!(thread_schedule_policy(), Ok(Realtime(_))) {
        schedule(thread_native_id(), SHARED);
    }
}

/// A thread is watched for as long as it has this.
struct Watched {
    id: ThreadId,
}

struct Threads {
    watched: Vec<Thread>,
    urgency: Urgency,
    has_watcher: bool,
}

struct Thread {
    id: ThreadId,
    /// `Spec:` the kernel's Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat".
    schedstat: File,
    /// `Spec:` proc_pid_stat(5).
    stat: File,
    last: Option<Look>,
}

/// What is seen of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// It runs, or waits for a core.
    is_runnable: bool,
    /// On a core, since it began, in ns.
    ran_ns: u64,
    /// For a core, since it began, in ns; without the wait that it is in.
    waited_ns: u64,
}

/// What is seen of all threads since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// One could run all the time, and did not.
    is_starved: bool,
    /// One had to wait.
    has_waited: bool,
}

/// What is decided, look by look.
struct Urgency {
    /// For so many more looks threads are real-time.
    looks_left: u32,
    /// For so many they were, the last time.
    looks_raised: u32,
    /// So many they have not been since.
    looks_lowered: u32,
    /// So many more are close to each other.
    looks_alert: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Raise,
    Lower,
}

impl Look {
    fn seen_since(self, before: Self) -> Seen {
        Seen { is_starved: self.is_runnable && self == before, has_waited: self.waited_ns.saturating_sub(before.waited_ns) >= WAIT_MIN_NS }
    }
}

impl Seen {
    fn or(self, other: Self) -> Self {
        Self { is_starved: self.is_starved || other.is_starved, has_waited: self.has_waited || other.has_waited }
    }
}

impl Urgency {
    const CALM: Self = Self { looks_left: 0, looks_raised: 0, looks_lowered: 0, looks_alert: 0 };

    fn decide(&mut self, seen: Seen) -> Option<Change> {
        if self.looks_left > 0 {
            self.looks_left -= 1;
            self.looks_lowered = 0;
            return (self.looks_left == 0).then_some(Change::Lower);
        }
        self.looks_lowered = self.looks_lowered.saturating_add(1);
        self.looks_alert = if seen.has_waited || seen.is_starved { LOOKS_ALERT } else { self.looks_alert.saturating_sub(1) };
        if !seen.is_starved {
            return None;
        }
        let is_again = self.looks_lowered <= self.looks_raised;
        self.looks_raised = if is_again { (self.looks_raised * 2).min(LOOKS_RAISED_MAX) } else { LOOKS_RAISED_MIN };
        self.looks_left = self.looks_raised;
        Some(Change::Raise)
    }

    /// When the next look is due.
    fn pause(&self) -> Duration {
        if self.looks_alert > 0 { LOOK_INTERVAL } else { CALM_LOOK_INTERVAL }
    }
}

impl Watched {
    fn begin() -> Self {
        let id = thread_native_id();
        match Thread::open(id) {
            Ok(thread) => THREADS.lock().add(thread),
            Err(error) => tracing::debug!(%error, "Nobody sees whether raft's threads wait for a core"),
        }
        Self { id }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        THREADS.lock().watched.retain(|thread| thread.id != self.id);
    }
}

impl Threads {
    fn add(&mut self, thread: Thread) {
        if self.urgency.looks_left > 0 {
            schedule(thread.id, REAL_TIME);
        }
        self.watched.push(thread);
        if !self.has_watcher {
            self.has_watcher = std::thread::Builder::new().name("raft-urgency".into()).spawn(watch).is_ok();
        }
    }

    fn look(&mut self) {
        let seen = self.watched.iter_mut().filter_map(Thread::seen).fold(Seen::default(), Seen::or);
        let Some(change) = self.urgency.decide(seen) else { return };
        if change == Change::Raise {
            tracing::debug!(looks = self.urgency.looks_raised, "Raft's threads wait for a core: they are real-time for a while");
        }
        let how = if change == Change::Raise { REAL_TIME } else { SHARED };
        self.watched.iter().for_each(|thread| schedule(thread.id, how));
    }
}

impl Thread {
    /// The one that calls.
    fn open(id: ThreadId) -> io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/thread-self/{name}"));
        Ok(Self { id, schedstat: open("schedstat")?, stat: open("stat")?, last: None })
    }

    /// Since the last look; `None` if this is the first one.
    fn seen(&mut self) -> Option<Seen> {
        let look = self.look();
        let before = std::mem::replace(&mut self.last, look);
        Some(look?.seen_since(before?))
    }

    fn look(&self) -> Option<Look> {
        let mut buffer = [0; 512];
        let mut times = start_of(&self.schedstat, &mut buffer)?.split(' ').map(str::parse);
        let (ran_ns, waited_ns) = (times.next()?.ok()?, times.next()?.ok()?);
        // the name before it may hold anything
        let state = start_of(&self.stat, &mut buffer)?.rsplit_once(')')?.1.trim_start();
        Some(Look { is_runnable: state.starts_with('R'), ran_ns, waited_ns })
    }
}

/// Looks until nobody is watched any more.
fn watch() {
    let (policy, priority) = REAL_TIME;
    let may = set_thread_priority_and_policy(thread_native_id(), priority, policy);
    if let Err(error) = may {
        // as nobody will have the right later on, nobody looks
        tracing::debug!(?error, "Raft's threads cannot be real-time");
        return;
    }
    let mut pause = LOOK_INTERVAL;
    loop {
        std::thread::park_timeout(pause);
        let mut threads = THREADS.lock();
        if threads.watched.is_empty() {
            threads.has_watcher = false;
            return;
        }
        threads.look();
        pause = threads.urgency.pause();
    }
}

/// Only of threads that have not ended.
fn schedule(thread: ThreadId, (policy, priority): (ThreadSchedulePolicy, ThreadPriority)) {
    if let Err(error) = set_thread_priority_and_policy(thread, priority, policy) {
        tracing::debug!(?error, "Could not schedule a thread of raft's otherwise");
    }
}

fn start_of<'a>(file: &File, buffer: &'a mut [u8]) -> Option<&'a str> {
    let length = file.read_at(buffer, 0).ok()?;
    std::str::from_utf8(buffer.get(..length)?).ok()
}

#[cfg(test)]
mod tests;
