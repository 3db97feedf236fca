//! trierarch-apiserver
