//! trierarch-agent
