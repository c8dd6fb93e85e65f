//! The proxy.toml that an import becomes.

use std::fmt::Write as _;

/// What has been found so far, as TOML.
#[derive(Default)]
pub struct Draft {
    /// Keys before all sections.
    pub top: String,
    /// `[[listener]]`, `[[server]]` and `[[rule]]`, whole.
    pub listeners: String,
    pub servers: String,
    pub rules: String,
    sections: Vec<(&'static str, Vec<(&'static str, String)>)>,
}

impl Draft {
    /// Sets a key of a section; a later value takes the place of an earlier one. `value`: as TOML.
    pub fn set(&mut self, section: &'static str, key: &'static str, value: impl Into<String>) {
        let at = self.sections.iter().position(|(name, _)| *name == section);
        let at = at.unwrap_or_else(|| {
            self.sections.push((section, Vec::new()));
            self.sections.len() - 1
        });
        let keys = &mut self.sections[at].1;
        keys.retain(|(name, _)| *name != key);
        keys.push((key, value.into()));
    }

    /// Whether a key has been set.
    pub fn has(&self, section: &str, key: &str) -> bool {
        let mut keys = self.sections.iter().filter(|(name, _)| *name == section).flat_map(|s| &s.1);
        keys.any(|(name, _)| *name == key)
    }

    /// A `[[listener]]`.
    pub fn listener(&mut self, host: &str, port: &str) {
        let address = quoted(&address(host, port));
        let _ = write!(self.listeners, "\n[[listener]]\naddress = {address}\n");
    }

    /// The beginning of a `[[server]]`.
    pub fn server(&mut self, name: &str, host: &str, port: &str) {
        let (name, address) = (quoted(name), quoted(&address(host, port)));
        let _ = write!(self.servers, "\n[[server]]\nname = {name}\naddress = {address}\n");
    }

    /// The file, in the order in which people read one.
    pub fn finish(self) -> String {
        let mut text = self.top + &self.listeners + &self.servers + &self.rules;
        let order = ["monitor", "routing", "failover", "pool", "limits"];
        for name in order {
            for (_, keys) in self.sections.iter().filter(|(section, _)| *section == name) {
                let _ = write!(text, "\n[{name}]\n");
                for (key, value) in keys {
                    let _ = writeln!(text, "{key} = {value}");
                }
            }
        }
        text.trim_start().to_owned()
    }
}

fn address(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A TOML string.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}
