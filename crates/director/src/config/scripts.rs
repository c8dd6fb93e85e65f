//! Who runs the scripts of a configuration, and which are too dangerous to be run
//! (keepalived.conf(5): `script_user`, `enable_script_security`).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::lexer::Place;
use super::model::{Script, User};
use super::reader::Findings;

/// The user keepalived prefers for scripts, if there is one of that name.
const PREFERRED: &str = "keepalived_script";

/// What must be asked of the machine.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    /// A user's number; `None`: no such user or group.
    pub uid: fn(&User) -> Option<u32>,
    /// Whether others than root could change what a program does: which part of its path.
    pub changeable: fn(&str) -> Option<String>,
}

impl Machine {
    pub const REAL: Self = Self { uid: system_uid, changeable };
    /// Knows everybody but the preferred user; nothing is dangerous.
    pub const NONE: Self =
        Self { uid: |user| (user.name != PREFERRED).then_some(1000), changeable: |_| None };
}

impl Default for Machine {
    fn default() -> Self {
        Self::NONE
    }
}

/// What applies to scripts without a word of their own.
#[derive(Default)]
pub(crate) struct Rules {
    pub machine: Machine,
    pub user: Option<User>,
    pub secure: bool,
    told: bool,
}

impl Findings {
    /// Gives a script its user; `None` if it must not be run, which is told.
    pub fn settle(&mut self, mut script: Script, place: &Place) -> Option<Script> {
        let rules = &self.scripts;
        if script.user.is_none() {
            script.user.clone_from(&rules.user);
        }
        if script.user.is_none() {
            let preferred = User { name: PREFERRED.to_owned(), group: None };
            if (rules.machine.uid)(&preferred).is_some() {
                script.user = Some(preferred);
            } else if !std::mem::replace(&mut self.scripts.told, true) {
                self.warn(
                    place,
                    format!("scripts run as root: no script_user, no user {PREFERRED}"),
                    "set `script_user NAME` in global_defs, or `script_user root` if that is meant",
                );
            }
        }
        let rules = &self.scripts;
        let uid = match &script.user {
            None => 0,
            Some(user) => match (rules.machine.uid)(user) {
                Some(uid) => uid,
                None => {
                    let group = user.group.as_ref().map_or_else(String::new, |g| format!(" {g}"));
                    let message = format!("no user {}{group} here: script not run", user.name);
                    self.warn(place, message, "");
                    return None;
                }
            },
        };
        if rules.secure
            && uid == 0
            && let Some(part) = (rules.machine.changeable)(&script.command[0])
        {
            self.warn(
                place,
                format!("others than root may change {part}: script not run"),
                "enable_script_security asks for this; run it as another user, or mend the path",
            );
            return None;
        }
        Some(script)
    }
}

fn system_uid(user: &User) -> Option<u32> {
    crate::sys::process::lookup(&user.name, user.group.as_deref()).ok().map(|(uid, _)| uid)
}

fn changeable(program: &str) -> Option<String> {
    let path = if program.contains('/') {
        PathBuf::from(program)
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| p.is_file())?
    };
    let path = std::path::absolute(path).ok()?;
    // As written and as it really is: a link on the way may be replaced as well.
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    unsafe_part(&path).or_else(|| unsafe_part(&real)).map(|p| p.display().to_string())
}

fn unsafe_part(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|part| {
        // What does not exist can't be run; its folder is looked at all the same.
        let meta = part.metadata().ok()?;
        let link_owner = part.symlink_metadata().ok()?.uid();
        let written = meta.mode() & 0o002 != 0 || (meta.mode() & 0o020 != 0 && meta.gid() != 0);
        let sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
        let foreign = meta.uid() != 0 || link_owner != 0;
        (foreign || (written && !sticky)).then(|| part.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_others_may_change_is_found() {
        assert_eq!(changeable("/bin/true"), None);
        assert_eq!(changeable("true"), None);
        let dir = tempfile::tempdir().unwrap();
        if dir.path().metadata().unwrap().uid() != 0 {
            println!("skipped: needs root");
            return;
        }
        let script = dir.path().join("s");
        std::fs::write(&script, "").unwrap();
        let name = script.to_str().unwrap();
        assert_eq!(changeable(name), None, "/tmp is sticky");
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(changeable(name).as_deref(), Some(name));
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(changeable(name).as_deref(), dir.path().to_str());
    }
}
