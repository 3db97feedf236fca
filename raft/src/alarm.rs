//! Waking up after a while, and only then. The runtime's own timers know a time that is more than 64 ms away only roughly: they wake the process
//! up before it as well, to find out when exactly it is. The kernel's timer does not.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use tokio::io::unix::AsyncFd;

use crate::environment::Environment;

/// Rings once after each setting. Belongs to the runtime on which it was made.
pub(crate) struct Alarm {
    /// `None`: the runtime's timers have to do, as in a simulation, which has a time of its own.
    timer: Option<AsyncFd<OwnedFd>>,
}

impl Alarm {
    /// An alarm that is not set.
    pub(crate) fn new(environment: &Environment) -> Self {
        let timer = if environment.simulation().is_some() { None } else { kernel_timer() };
        Self { timer }
    }

    /// Returns after `pause`. Whoever does not wait for that may set it anew.
    pub(crate) async fn after(&self, pause: Duration) {
        let Some(timer) = &self.timer else { return tokio::time::sleep(pause).await };
        if set(timer.get_ref(), pause).is_err() || rung(timer).await.is_err() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// `Spec:` timerfd_create(2). Where there is none, nobody need know.
#[expect(deprecated, reason = "what takes its place is unsafe, for the sake of descriptors that are not owned")]
fn kernel_timer() -> Option<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).ok()?;
    AsyncFd::new(timer).ok()
}

/// `Spec:` timerfd_settime(2). Nought would stop the timer.
fn set(timer: &OwnedFd, pause: Duration) -> io::Result<()> {
    let nought = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Timespec::try_from(pause.max(Duration::from_nanos(1))).map_err(io::Error::other)?;
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: nought, it_value: value })?;
    Ok(())
}

/// Waits until the timer has rung since it was set: that it did so before is forgotten, whoever has seen it.
async fn rung(timer: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = timer.readable().await?;
        match ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0_u8; 8])?)) {
            Ok(read) => return read.map(drop),
            Err(_not_yet) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::clock;

    async fn rings_after(alarm: &Alarm, pause: Duration) {
        let begun = clock::now();
        alarm.after(pause).await;
        assert!(clock::since(begun) >= pause, "{:?} of {pause:?}", clock::since(begun));
    }

    /// Sets it, and looks away until `until`.
    async fn look_away(alarm: &Alarm, pause: Duration, until: Instant) {
        tokio::select! {
            biased;
            () = alarm.after(pause) => panic!("it rang at once"),
            () = std::future::ready(()) => {}
        }
        tokio::time::sleep_until(until.into()).await;
    }

    #[tokio::test]
    async fn an_alarm_rings_in_time_however_often_it_is_set() {
        for alarm in [Alarm::new(&Environment::default()), Alarm { timer: None }] {
            for pause in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(3), Duration::from_millis(70)] {
                rings_after(&alarm, pause).await;
            }
        }
    }

    #[tokio::test]
    async fn what_rang_unseen_is_forgotten_when_it_is_set_anew() {
        let alarm = Alarm::new(&Environment::default());
        assert!(alarm.timer.is_some());
        for _ in 0..3 {
            look_away(&alarm, Duration::from_millis(2), clock::now() + Duration::from_millis(5)).await;
            rings_after(&alarm, Duration::from_millis(10)).await;
            look_away(&alarm, Duration::from_millis(20), clock::now()).await;
            rings_after(&alarm, Duration::from_millis(30)).await;
        }
    }
}
