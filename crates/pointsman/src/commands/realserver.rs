//! `pointsman realserver`: makes a host answer for a virtual address that directors route to it.
//!
//! The address stands on lo, so that its packets are taken; ARP must not tell of it, as only the
//! director may (the kernel's ip-sysctl: `arp_ignore`, `arp_announce`). IPv6 needs no more than the
//! address: a neighbour solicitation is answered only for addresses of the interface it came by.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

/// Prepare a web server for direct routing: the virtual address on lo, and no ARP for it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Set it up, now and after a reboot
    Up(Options),
    /// Undo it, and give the ARP settings their former values
    Down(Options),
    /// Say what is wrong, if anything; exit code 1 then
    Check(Options),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// The virtual address
    #[arg(long, value_name = "ADDR", value_parser = virtual_address)]
    vip: IpAddr,
    /// Leave what is done at boot as it is
    #[arg(long)]
    no_persist: bool,
    /// Where /etc and /run are
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

fn virtual_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "not an IP address".to_owned())?;
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
        return Err("not an address that clients can reach".to_owned());
    }
    Ok(address)
}

pub fn run(args: Args) -> Result<ExitCode> {
    match args.action {
        Action::Up(options) => up(&options)?,
        Action::Down(options) => down(&options)?,
        Action::Check(options) => {
            let wrong = problems(&options)?;
            for problem in &wrong {
                println!("{problem}");
            }
            if !wrong.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
            println!("{} is ready for direct routing", options.vip);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What direct routing asks for. The kernel takes the greater of `all` and the interface's own.
const SETTINGS: [(&str, u8); 4] =
    [("all/arp_ignore", 1), ("lo/arp_ignore", 1), ("all/arp_announce", 2), ("lo/arp_announce", 2)];

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv4/conf").join(name)
}

fn read_setting(name: &str) -> Result<u8> {
    let path = setting(name);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{} holds no number", path.display()))
}

fn write_setting(name: &str, value: u8) -> Result<()> {
    let path = setting(name);
    fs::write(&path, value.to_string())
        .with_context(|| format!("writing {} (this needs root)", path.display()))
}

impl Options {
    /// What was before, and for which addresses; gone after a reboot, as the settings are.
    fn state(&self) -> PathBuf {
        self.root.join("run/pointsman/realserver")
    }

    fn former(&self) -> PathBuf {
        self.state().join("former-settings.json")
    }

    fn marker(&self) -> PathBuf {
        self.state().join(format!("vip-{}", self.vip))
    }

    fn units(&self) -> PathBuf {
        self.root.join("etc/systemd/system")
    }

    fn unit_name(&self) -> String {
        format!("pointsman-realserver-{}.service", self.vip.to_string().replace(':', "-"))
    }

    fn wanted(&self) -> PathBuf {
        self.units().join("multi-user.target.wants").join(self.unit_name())
    }

    fn prefix(&self) -> u64 {
        if self.vip.is_ipv6() { 128 } else { 32 }
    }

    fn ip_addr(&self, verb: &str) -> Result<()> {
        let address = format!("{}/{}", self.vip, self.prefix());
        let out = Command::new("ip")
            .args(["addr", verb, &address, "dev", "lo"])
            .output()
            .context("running `ip` (package iproute2)")?;
        if !out.status.success() {
            bail!("ip addr {verb} {address}: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(())
    }

    /// Interfaces that have the address, with the prefix length it has there.
    fn places(&self) -> Result<Vec<(String, u64)>> {
        let out = Command::new("ip")
            .args(["-json", "addr", "show"])
            .output()
            .context("running `ip` (package iproute2)")?;
        if !out.status.success() {
            bail!("ip addr show: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        let links: Vec<serde_json::Value> =
            serde_json::from_slice(&out.stdout).context("reading what `ip` says")?;
        let mut places = Vec::new();
        for link in &links {
            let name = link["ifname"].as_str().unwrap_or_default();
            for address in link["addr_info"].as_array().into_iter().flatten() {
                let local = address["local"].as_str().and_then(|a| a.parse::<IpAddr>().ok());
                if local == Some(self.vip) {
                    places.push((name.to_owned(), address["prefixlen"].as_u64().unwrap_or(0)));
                }
            }
        }
        Ok(places)
    }
}

fn up(options: &Options) -> Result<()> {
    let places = options.places()?;
    if let Some((elsewhere, _)) = places.iter().find(|(name, _)| name != "lo") {
        bail!(
            "{} is on {elsewhere}: remove it there first, or this host goes on answering ARP for it",
            options.vip
        );
    }
    fs::create_dir_all(options.state())
        .with_context(|| format!("making {}", options.state().display()))?;
    fs::write(options.marker(), "")?;
    // ARP first: the address must not be told of for a moment.
    let done = quieten(options).and_then(|()| match places.is_empty() {
        true => options.ip_addr("add"),
        false => Ok(()),
    });
    if let Err(error) = done {
        let _ = forget(options);
        return Err(error);
    }
    if !options.no_persist {
        persist(options)?;
    }
    Ok(())
}

fn quieten(options: &Options) -> Result<()> {
    if options.vip.is_ipv6() {
        return Ok(());
    }
    if !options.former().exists() {
        let mut former = BTreeMap::new();
        for (name, _) in SETTINGS {
            former.insert(name, read_setting(name)?);
        }
        fs::write(options.former(), serde_json::to_vec(&former)?)?;
    }
    for (name, value) in SETTINGS {
        // A stricter value than ours stays.
        if read_setting(name)? < value {
            write_setting(name, value)?;
        }
    }
    Ok(())
}

fn down(options: &Options) -> Result<()> {
    if options.places()?.iter().any(|(name, _)| name == "lo") {
        options.ip_addr("del")?;
    }
    forget(options)?;
    if !options.no_persist {
        remove(&options.wanted())?;
        let unit = options.units().join(options.unit_name());
        if unit.exists() {
            // Or it would go on as one that is active and has no file.
            systemctl(options, &["stop", &options.unit_name()]);
            remove(&unit)?;
            systemctl(options, &["daemon-reload"]);
        }
    }
    Ok(())
}

/// Restores the ARP settings with the last IPv4 address.
fn forget(options: &Options) -> Result<()> {
    remove(&options.marker())?;
    let others = fs::read_dir(options.state()).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.strip_prefix("vip-").is_some_and(|vip| !vip.contains(':'))
    });
    if others || options.vip.is_ipv6() {
        return Ok(());
    }
    let Ok(text) = fs::read(options.former()) else { return Ok(()) };
    let former: BTreeMap<String, u8> = serde_json::from_slice(&text)
        .with_context(|| format!("reading {}", options.former().display()))?;
    for (name, ours) in SETTINGS {
        // What somebody else has set since is theirs.
        if let Some(value) = former.get(name)
            && read_setting(name)? == ours
        {
            write_setting(name, *value)?;
        }
    }
    remove(&options.former()).map(drop)
}

/// Whether there was something to remove.
fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("removing {}", path.display())),
    }
}

fn persist(options: &Options) -> Result<()> {
    if !options.units().is_dir() {
        eprintln!("note: no {}: run this again after a reboot", options.units().display());
        return Ok(());
    }
    let program = std::env::current_exe().context("finding this program")?;
    let (program, vip) = (program.display(), options.vip);
    let unit = format!(
        "[Unit]\n\
         Description=Virtual address {vip} for direct routing\n\
         Before=network.target\n\n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=\"{program}\" realserver up --no-persist --vip {vip}\n\
         ExecStop=\"{program}\" realserver down --no-persist --vip {vip}\n\n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    );
    let path = options.units().join(options.unit_name());
    fs::write(&path, unit).with_context(|| format!("writing {}", path.display()))?;
    if let Some(dir) = options.wanted().parent() {
        fs::create_dir_all(dir)?;
    }
    remove(&options.wanted())?;
    std::os::unix::fs::symlink(Path::new("..").join(options.unit_name()), options.wanted())
        .context("enabling the unit")?;
    systemctl(options, &["daemon-reload"]);
    // It is active as it will be after a boot; what it does is done already.
    systemctl(options, &["start", &options.unit_name()]);
    Ok(())
}

/// Tells a running systemd; at boot it reads its units anyway.
fn systemctl(options: &Options, args: &[&str]) {
    if options.root != Path::new("/") || !Path::new("/run/systemd/system").is_dir() {
        return;
    }
    match Command::new("systemctl").args(args).status() {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("note: systemctl {}: {status}", args.join(" ")),
        Err(error) => eprintln!("note: systemctl {}: {error}", args.join(" ")),
    }
}

fn problems(options: &Options) -> Result<Vec<String>> {
    let vip = options.vip;
    let mut wrong = Vec::new();
    let places = options.places()?;
    match places.iter().find(|(name, _)| name == "lo") {
        None => wrong.push(format!("{vip} is not on lo: its packets are not taken")),
        Some((_, prefix)) if *prefix != options.prefix() => wrong.push(format!(
            "{vip} is on lo as /{prefix}, not /{}: neighbours seem to be this host",
            options.prefix()
        )),
        Some(_) => {}
    }
    for (name, _) in places.iter().filter(|(name, _)| name != "lo") {
        wrong.push(format!(
            "{vip} is on {name} too: this host answers for it in the director's place"
        ));
    }
    if vip.is_ipv4() {
        for (name, value) in SETTINGS {
            let is = read_setting(name)?;
            if is < value {
                let name = name.replace('/', ".");
                wrong.push(format!("net.ipv4.conf.{name} is {is}, must be {value}"));
            }
        }
    }
    if !options.no_persist && options.units().is_dir() && !options.wanted().is_symlink() {
        wrong.push("it is not kept over a reboot: run `pointsman realserver up`".to_owned());
    }
    Ok(wrong)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn addresses_nobody_can_reach_are_refused() {
        for wrong in ["127.0.0.1", "224.0.0.18", "0.0.0.0", "::1", "web", "10.0.0.1/32"] {
            assert!(virtual_address(wrong).is_err(), "{wrong}");
        }
        assert!(virtual_address("192.168.4.253").is_ok() && virtual_address("fd00::1").is_ok());
    }

    const INSIDE: &str = "POINTSMAN_TEST_INSIDE_NAMESPACE";

    /// Runs itself again in a network namespace.
    #[test]
    fn up_check_and_down_in_a_namespace() {
        if std::env::var_os(INSIDE).is_some() {
            return inside();
        }
        let name = format!("pmr-{}", std::process::id());
        let ip = |args: &[&str]| {
            Command::new("ip").args(args).output().is_ok_and(|o| o.status.success())
        };
        if !ip(&["netns", "add", &name]) {
            println!("skipped: network namespaces can't be made here");
            return;
        }
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&["-n", &name, "link", "add", "eth0", "type", "veth"]);
        let out = Command::new("ip")
            .args(["netns", "exec", &name])
            .arg(std::env::current_exe().unwrap())
            .args(["up_check_and_down_in_a_namespace", "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        ip(&["netns", "del", &name]);
        let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && text.contains("1 passed"), "{text}");
    }

    fn inside() {
        let dir = tempfile::tempdir().unwrap();
        let of = |vip: &str| Options {
            vip: vip.parse().unwrap(),
            no_persist: false,
            root: dir.path().to_owned(),
        };
        let settings = || SETTINGS.map(|(name, _)| read_setting(name).unwrap());
        let (a, b, six) = (of("192.168.4.253"), of("192.168.4.252"), of("fd00::253"));
        write_setting("all/arp_announce", 1).unwrap();
        let before = settings();
        assert_eq!(problems(&a).unwrap().len(), 5, "no address, four settings");

        // Without systemd nothing is written for it; with it, a unit that is wanted.
        up(&a).unwrap();
        assert!(!a.units().exists());
        assert_eq!(problems(&a).unwrap(), [] as [String; 0]);
        fs::create_dir_all(a.units()).unwrap();
        assert!(problems(&a).unwrap()[0].contains("reboot"));
        for options in [&a, &a, &b, &six] {
            up(options).unwrap();
            assert_eq!(problems(options).unwrap(), [] as [String; 0]);
        }
        let unit = fs::read_to_string(a.wanted()).unwrap();
        assert!(unit.contains("realserver up --no-persist --vip 192.168.4.253\n"), "{unit}");
        assert_eq!(settings(), [1, 1, 2, 2]);

        // Something breaks it.
        write_setting("lo/arp_ignore", 0).unwrap();
        assert!(problems(&a).unwrap()[0].contains("lo.arp_ignore is 0, must be 1"));
        up(&a).unwrap();

        // The settings stay as long as an address needs them.
        down(&a).unwrap();
        assert_eq!(settings(), [1, 1, 2, 2]);
        down(&b).unwrap();
        assert_eq!(settings(), before);
        assert_eq!(problems(&six).unwrap(), [] as [String; 0]);
        down(&six).unwrap();
        down(&six).unwrap();
        assert!(six.places().unwrap().is_empty());
        assert_eq!(fs::read_dir(a.state()).unwrap().count(), 0);
        assert!(!a.wanted().is_symlink() && !a.units().join(a.unit_name()).exists());

        // On another interface this host would answer for it.
        let add = ["addr", "add", "192.168.4.253/24", "dev", "eth0"];
        assert!(Command::new("ip").args(add).status().unwrap().success());
        assert!(up(&a).unwrap_err().to_string().contains("eth0"));
        assert!(problems(&a).unwrap().iter().any(|p| p.contains("eth0 too")));
        assert_eq!(settings(), before);
    }
}
