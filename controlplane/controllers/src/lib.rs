//! trierarch-controllers
