//! A server on a small disk of its own, to be filled.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use pointsman_sandbox::Node;

use crate::reference::unable;

/// In memory, over the server's directory. Gone with the value, which has to go before the server does.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

/// Left by a test that could not clean up after itself, at most this much is lost.
const SIZE: &str = "size=1g";

impl SmallDisk {
    /// Moves `node`, which is restarted for it. `None`: only root may mount.
    ///
    /// # Errors
    /// It can't be mounted, or the server does not come up there.
    pub fn under(node: &Node) -> Result<Option<Self>> {
        if unable().is_some() {
            return Ok(None);
        }
        node.stop()?;
        let dir = node.dir().to_owned();
        let old = tempfile::tempdir()?;
        run(Command::new("cp").arg("-a").arg(dir.join(".")).arg(old.path()))?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(&dir))?;
        let disk = Self { dir };
        run(Command::new("cp").arg("-a").arg(old.path().join(".")).arg(&disk.dir))?;
        node.start()?;
        Ok(Some(disk))
    }

    /// Leaves space again.
    ///
    /// # Errors
    /// It was not filled.
    pub fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.dir.join("rest"))?)
    }

    /// Leaves no space.
    ///
    /// # Errors
    /// It can't be written to at all.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.dir.join("rest"))?;
        let mut block = vec![0; 1 << 20];
        // What is left after the last whole MiB goes by pages.
        while file.write_all(&block).is_ok() {}
        block.truncate(4096);
        while file.write_all(&block).is_ok() {}
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The server still has files open there.
        let _ = run(Command::new("umount").arg("-l").arg(&self.dir));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.output()?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
