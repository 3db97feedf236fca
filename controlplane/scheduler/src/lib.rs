//! trierarch-scheduler
