//! Streams into containers: exec, attach, port-forward, logs.
