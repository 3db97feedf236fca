//! trierarch-integration
