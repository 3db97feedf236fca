//! trierarch-images
