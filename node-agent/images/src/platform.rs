//! Which image of an index suits this machine.

use std::fmt;

use oci_spec::image::Descriptor;

use crate::digest::Digest;
use crate::error::StoreError;

/// Operating system and architecture in Go's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
}

impl Platform {
    /// What this program was built for.
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned() }
    }

    /// The manifest for this platform: the first that fits without a variant, else the first that fits. An entry without a platform fits if it
    /// is the only one.
    ///
    /// # Errors
    /// `NoPlatform` if none fits.
    pub fn choose<'a>(&self, index: &Digest, manifests: &'a [Descriptor]) -> Result<&'a Descriptor, StoreError> {
        let fitting: Vec<&Descriptor> = manifests.iter().filter(|descriptor| self.fits(descriptor)).collect();
        let plain = |descriptor: &&&Descriptor| descriptor.platform().as_ref().is_none_or(|platform| platform.variant().is_none());
        if let Some(chosen) = fitting.iter().find(plain).or(fitting.first()) {
            return Ok(chosen);
        }
        if let [only] = manifests
            && only.platform().is_none()
        {
            return Ok(only);
        }
        let present: Vec<String> = manifests
            .iter()
            .map(|descriptor| match descriptor.platform() {
                Some(platform) => format!("{}/{}", platform.os(), platform.architecture()),
                None => "unknown".to_owned(),
            })
            .collect();
        Err(StoreError::NoPlatform { digest: index.clone(), wanted: self.to_string(), present: present.join(", ") })
    }

    fn fits(&self, descriptor: &Descriptor) -> bool {
        descriptor
            .platform()
            .as_ref()
            .is_some_and(|platform| platform.os().to_string() == self.os && platform.architecture().to_string() == self.architecture)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}
