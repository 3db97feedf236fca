//! The tracer of Services.
