//! The real binary.

use std::process::{Command, Output, Stdio};

/// The binary, with nothing of the developer's own environment in its way.
pub fn pointsman(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(args).stdin(Stdio::null());
    for name in ["POINTSMAN_ADMIN", "POINTSMAN_TOKEN", "POINTSMAN_LOG", "POINTSMAN_LOG_FORMAT"] {
        command.env_remove(name);
    }
    command
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub trait RunExt {
    fn run(&mut self) -> Run;
}

impl RunExt for Command {
    fn run(&mut self) -> Run {
        let Output { status, stdout, stderr } = self.output().unwrap();
        Run {
            code: status.code(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }
}
