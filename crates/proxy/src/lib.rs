//! The MySQL proxy: listeners, worker threads, backends, and the relay between them.
