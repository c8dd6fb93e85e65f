//! Operating a daemon: one command table behind HTTP, CLI and SQL console; metrics.
