//! trierarch-runtime
