//! Which daemon's config a text is, told by its content.

/// What a config file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `proxy.toml`.
    Proxy,
    /// The director's TOML: `[[vrrp]]`, `[[virtual_server]]`.
    Director,
    /// A `keepalived.conf`, which the director reads too.
    Keepalived,
}

/// Tells the kinds apart by the first line that only one of them can have. A text that is none of
/// them is taken for the proxy's, whose reader then says what is wrong with it.
#[must_use]
pub fn kind(text: &str) -> Kind {
    for line in text.lines() {
        let line = line.split(['#', '!']).next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[') {
            let name = header.trim_start_matches('[').split([']', '.']).next().unwrap_or_default();
            match name.trim().trim_matches(['"', '\'']) {
                "vrrp"
                | "vrrp_script"
                | "vrrp_track_process"
                | "vrrp_track_file"
                | "vrrp_sync_group"
                | "virtual_server"
                | "virtual_server_group" => {
                    return Kind::Director;
                }
                "listener" | "server" | "monitor" | "routing" | "limits" | "user" | "console" => {
                    return Kind::Proxy;
                }
                _ => {}
            }
            continue;
        }
        // keepalived: `keyword [name...] {`, and no `=` in it.
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default().trim_end_matches('{');
        let known = [
            "global_defs",
            "vrrp_instance",
            "vrrp_sync_group",
            "vrrp_script",
            "vrrp_track_process",
            "vrrp_track_file",
            "track_file",
            "virtual_server",
            "virtual_server_group",
            "static_ipaddress",
            "static_routes",
        ];
        if known.contains(&first) && !line.contains('=') {
            return Kind::Keepalived;
        }
    }
    Kind::Proxy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_apart_by_content() {
        assert_eq!(kind("[[listener]]\n"), Kind::Proxy);
        assert_eq!(kind("workers = 2\n[admin]\n[[ server ]]\n"), Kind::Proxy);
        assert_eq!(kind("# x\n[[vrrp]]\n"), Kind::Director);
        assert_eq!(kind("[admin]\n[[virtual_server.real_server]]\n"), Kind::Director);
        assert_eq!(kind("! a comment\nvrrp_instance VI_1 {\n"), Kind::Keepalived);
        assert_eq!(kind("global_defs{\n"), Kind::Keepalived);
        assert_eq!(kind(""), Kind::Proxy);
    }
}
