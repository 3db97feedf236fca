//! trierarch-client
