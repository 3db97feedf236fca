//! Decides how the node's network comes from what is there to what is wanted.
