//! trierarch-network
