//! trierarch-controlplane
