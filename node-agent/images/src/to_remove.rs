//! Which images go when the disk fills up. Pure: the caller reads the disk and the store, and removes what this returns, in order.
//!
//! Spec: kubelet's image garbage collection (`imageGCHighThresholdPercent`, `imageGCLowThresholdPercent`, `imageMinimumGCAge`,
//! `imageMaximumGCAge`).

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUse {
    /// Its ID.
    pub id: String,
    /// What removing it frees.
    pub size_bytes: u64,
    /// When it was first seen on this node.
    pub first_detected: SystemTime,
    /// When a container last used it, if one ever did.
    pub last_used: Option<SystemTime>,
    /// Never removed (the sandbox's image).
    pub pinned: bool,
}

/// The file system that holds the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUse {
    /// Its size.
    pub capacity_bytes: u64,
    /// What is free.
    pub available_bytes: u64,
}

/// When and how much to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// From this use on, images are removed.
    pub high_threshold_percent: u8,
    /// Down to this use.
    pub low_threshold_percent: u8,
    /// Younger images stay.
    pub minimum_age: Duration,
    /// Images unused for longer go in any case; `None` turns that off.
    pub maximum_age: Option<Duration>,
}

/// What to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// In this order.
    pub ids: Vec<String>,
    /// What has to become free; 0 below the threshold.
    pub wanted_bytes: u64,
    /// What the images under `ids` free. Less than wanted means that there is nothing more to remove.
    pub freed_bytes: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { high_threshold_percent: 85, low_threshold_percent: 80, minimum_age: Duration::from_secs(120), maximum_age: None }
    }
}

impl DiskUse {
    /// Whole percent in use, as kubelet rounds it.
    pub fn used_percent(&self) -> u64 {
        let free_percent = self.available_bytes.saturating_mul(100).checked_div(self.capacity_bytes).unwrap_or(100);
        100_u64.saturating_sub(free_percent)
    }
}

/// Images to remove, longest unused first. Those in `in_use` and pinned ones never are.
pub fn to_remove(images: &[ImageUse], in_use: &HashSet<String>, disk: DiskUse, policy: &Policy, now: SystemTime) -> Removal {
    let mut unused: Vec<&ImageUse> = images.iter().filter(|image| !image.pinned && !in_use.contains(&image.id)).collect();
    unused.sort_by_key(|image| (image.last_used.unwrap_or(SystemTime::UNIX_EPOCH), image.first_detected, image.id.clone()));
    let mut removal = Removal { wanted_bytes: wanted_bytes(disk, policy), ..Removal::default() };
    for image in unused {
        let age = age(image.first_detected, now);
        let idle = age.min(image.last_used.map_or(age, |last_used| self::age(last_used, now)));
        let expired = policy.maximum_age.is_some_and(|maximum| idle > maximum);
        let needed = removal.freed_bytes < removal.wanted_bytes && age >= policy.minimum_age;
        if expired || needed {
            removal.freed_bytes += image.size_bytes;
            removal.ids.push(image.id.clone());
        }
    }
    removal
}

fn wanted_bytes(disk: DiskUse, policy: &Policy) -> u64 {
    if disk.capacity_bytes == 0 || disk.used_percent() < u64::from(policy.high_threshold_percent) {
        return 0;
    }
    let free_wanted = disk.capacity_bytes / 100 * (100 - u64::from(policy.low_threshold_percent.min(100)));
    free_wanted.saturating_sub(disk.available_bytes)
}

fn age(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn image(id: &str, size_bytes: u64, first_detected: u64, last_used: Option<u64>) -> ImageUse {
        ImageUse { id: id.to_owned(), size_bytes, first_detected: at(first_detected), last_used: last_used.map(at), pinned: false }
    }

    fn check(images: &[ImageUse], in_use: &[&str], available_bytes: u64, expected: &[&str]) {
        let in_use = in_use.iter().map(|id| (*id).to_owned()).collect();
        let disk = DiskUse { capacity_bytes: 1000, available_bytes };
        assert_eq!(to_remove(images, &in_use, disk, &Policy::default(), at(10_000)).ids, expected);
    }

    #[test]
    fn nothing_goes_below_the_threshold() {
        check(&[image("a", 100, 0, None)], &[], 160, &[]);
    }

    #[test]
    fn the_longest_unused_go_first_and_only_as_many_as_needed() {
        let images = [image("new", 60, 0, Some(9000)), image("never", 60, 5, None), image("old", 60, 0, Some(100))];
        check(&images, &[], 100, &["never", "old"]);
        check(&images, &[], 149, &["never"]);
        check(&images, &["never"], 149, &["old"]);
    }

    #[test]
    fn young_and_pinned_images_stay() {
        let mut images = [image("young", 500, 9_900, None), image("pinned", 500, 0, None)];
        images[1].pinned = true;
        check(&images, &[], 10, &[]);
    }

    #[test]
    fn too_old_ones_go_even_with_a_free_disk() {
        let policy = Policy { maximum_age: Some(Duration::from_secs(1000)), ..Policy::default() };
        let images = [image("a", 1, 0, Some(100)), image("b", 1, 0, Some(9500)), image("c", 1, 9500, None)];
        let disk = DiskUse { capacity_bytes: 1000, available_bytes: 900 };
        assert_eq!(to_remove(&images, &HashSet::new(), disk, &policy, at(10_000)).ids, ["a"]);
    }

    proptest! {
        #[test]
        fn images_in_use_never_go_and_no_more_goes_than_needed(
            sizes in proptest::collection::vec((1_u64..200, 0_u64..9000, proptest::option::of(0_u64..10_000), any::<bool>()), 0..20),
            available_bytes in 0_u64..1000,
        ) {
            let images: Vec<ImageUse> = sizes.iter().enumerate().map(|(i, row)| image(&i.to_string(), row.0, row.1, row.2)).collect();
            let in_use: HashSet<String> = sizes.iter().enumerate().filter(|(_, row)| row.3).map(|(i, _)| i.to_string()).collect();
            let disk = DiskUse { capacity_bytes: 1000, available_bytes };
            let removal = to_remove(&images, &in_use, disk, &Policy::default(), at(10_000));
            prop_assert!(removal.ids.iter().all(|id| !in_use.contains(id)));
            let last = removal.ids.last().and_then(|id| images.iter().find(|image| image.id == *id)).map_or(0, |image| image.size_bytes);
            prop_assert!(removal.freed_bytes.saturating_sub(last) < removal.wanted_bytes.max(1));
            if removal.freed_bytes < removal.wanted_bytes {
                prop_assert_eq!(removal.ids.len(), images.len() - in_use.len());
            }
        }
    }
}
