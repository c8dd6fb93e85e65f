//! Ties the [`Machine`] to the monitor and to the servers.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pointsman_config::ProxyConfig;
use pointsman_config::proxy::Account;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::act::{Hands, POLL, Tools};
use super::events::Events;
use super::rebuild::{Rebuild, Rebuilds};
use super::{Effect, Failure, Lead, Machine, Outcome, Settings, Step, StepId, grants, group};
use crate::link::{Fields, Link, Target};
use crate::monitor::Shared;
use crate::snapshot::{Role, ServerId};

/// What an operator wants.
#[derive(Debug)]
pub(crate) enum Request {
    Switchover {
        to: Option<String>,
        rehearse: bool,
    },
    Failover {
        to: Option<String>,
        force: bool,
    },
    /// `rebuild`: with another server's data instead of its own. That is only begun then.
    Rejoin {
        server: String,
        rebuild: bool,
        /// Even if it has not diverged.
        force: bool,
    },
    /// It has them, or it failed: completes "its rebuild ".
    RebuildEnds {
        server: usize,
        failed: Option<String>,
    },
}

type Asked = (Request, oneshot::Sender<Result<String, String>>);

/// The machine's side that everybody may talk to.
#[derive(Debug)]
pub(crate) struct Driver {
    requests: mpsc::UnboundedSender<Asked>,
    status: ArcSwap<Vec<String>>,
    failovers: AtomicU64,
    switchovers: AtomicU64,
    /// See [`Machine::is_tending`].
    tending: AtomicBool,
    pub(super) rebuilds: Rebuilds,
    pub(super) events: Events,
}

impl Driver {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Asked>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let driver = Self {
            requests,
            status: ArcSwap::default(),
            failovers: AtomicU64::new(0),
            switchovers: AtomicU64::new(0),
            tending: AtomicBool::new(false),
            rebuilds: Rebuilds::default(),
            events: Events::default(),
        };
        (driver, receiver)
    }

    pub(crate) async fn ask(&self, request: Request) -> Result<String, String> {
        let (sender, answer) = oneshot::channel();
        let gone = || "the proxy is stopping".to_owned();
        self.requests.send((request, sender)).map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Waits until no replica stands still for something that is done there, though not for long.
    pub(crate) async fn wait_tended(&self) {
        let begun = Instant::now();
        while self.tending.load(Ordering::Relaxed) && begun.elapsed() < TENDED {
            sleep(POLL).await;
        }
    }

    pub(crate) fn status(&self) -> Arc<Vec<String>> {
        let status = self.status.load_full();
        let mut more = self.rebuilds.status();
        more.extend(self.events.status());
        if more.is_empty() {
            return status;
        }
        Arc::new(status.iter().cloned().chain(more).collect())
    }

    pub(crate) fn count_switchover(&self) {
        self.switchovers.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes of the primary made so far: because it was lost, and planned ones.
    pub(crate) fn changes(&self) -> (u64, u64) {
        (self.failovers.load(Ordering::Relaxed), self.switchovers.load(Ordering::Relaxed))
    }
}

/// How often it is asked what the account may do: while it may not enough, and else.
const GRANTS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// How long an order waits for what is done without one.
const TENDED: Duration = Duration::from_secs(2);

/// How long it may take to find out whether a server can be rebuilt.
const CHECK: Duration = Duration::from_secs(5);

/// The account that changes servers.
pub(crate) fn account(config: &ProxyConfig) -> Account {
    config.failover.user.clone().unwrap_or_else(|| Account {
        user: config.monitor.user.clone(),
        password: config.monitor.password.clone(),
    })
}

pub(crate) async fn run(
    shared: Arc<Shared>,
    config: ProxyConfig,
    mut requests: mpsc::UnboundedReceiver<Asked>,
) {
    let own = account(&config);
    let address = |address: &str| {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "3306"));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        (host, port.parse().unwrap_or(3306))
    };
    let replication = config.failover.replication_user.clone().unwrap_or_else(|| own.clone());
    let rebuilding = config.failover.rebuild_user.clone().unwrap_or_else(|| own.clone());
    let tools = Arc::new(Tools {
        shared: shared.clone(),
        addresses: config.servers.iter().map(|server| address(&server.address)).collect(),
        own: own.clone(),
        ours: vec![
            config.monitor.user.clone(),
            own.user.clone(),
            replication.user.clone(),
            rebuilding.user.clone(),
        ],
        replication,
        rebuilding,
        tls: config.servers.iter().map(|server| server.tls.clone()).collect(),
        rebuild_command: config.failover.rebuild_command.clone(),
        handle_events: config.failover.handle_events,
    });
    let (outcomes, mut done) = mpsc::unbounded_channel();
    let hands: Vec<_> = (0..config.servers.len())
        .map(|server| {
            let (sender, steps) = mpsc::unbounded_channel();
            tokio::spawn(work(tools.clone(), server, steps, outcomes.clone()));
            sender
        })
        .collect();
    let (sender, mut able) = mpsc::unbounded_channel();
    let replicates = config.failover.replication_user.is_none();
    tokio::spawn(watch_grants(shared.clone(), tools.clone(), own.user, replicates, sender));

    let mut machine = Machine::new(Settings::from(&config.failover));
    let mut asked: Option<oneshot::Sender<Result<String, String>>> = None;
    let mut told_unable = None;
    loop {
        machine.handle_lead(lead(&shared), Instant::now());
        act(&shared, &mut machine, &hands, &mut asked);
        shared.plan(machine.plan(), machine.acts_by_itself(Instant::now()));
        let timer = [machine.poll_timeout(), shared.agreed_until()].into_iter().flatten().min();
        let alarm = async {
            match timer {
                Some(at) => sleep(at.saturating_duration_since(Instant::now())).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = shared.news.notified() => {
                // Clusters that elect for themselves want no help.
                if shared.snapshot().group.is_none() {
                    let now = Instant::now();
                    let facts = shared.topology().facts(now);
                    machine.handle_facts(facts, now);
                }
            }
            () = alarm => {
                shared.agree();
                machine.handle_timeout(Instant::now());
            }
            Some((id, outcome)) = done.recv() => machine.handle_outcome(id, outcome, Instant::now()),
            Some(now_able) = able.recv() => {
                let now_able: Result<(), Arc<str>> = now_able;
                tell_able(&shared, &config, &now_able, &mut told_unable);
                machine.handle_able(now_able, Instant::now());
            }
            request = requests.recv() => {
                let Some((request, answer)) = request else { return };
                if let Some(kind) = shared.snapshot().group {
                    let perform =
                        group::perform(shared.clone(), config.failover.clone(), kind, request);
                    tokio::spawn(async move { drop(answer.send(perform.await)) });
                    continue;
                }
                let now = Instant::now();
                machine.handle_facts(shared.topology().facts(now), now);
                if let Request::Rejoin { server, rebuild: true, force } = &request {
                    rebuild(&mut machine, &shared, &tools, (server, *force), answer);
                    continue;
                }
                match begin(&mut machine, &shared, request, now) {
                    Ok(None) => asked = Some(answer),
                    Ok(Some(text)) => drop(answer.send(Ok(text))),
                    Err(why) => drop(answer.send(Err(why))),
                }
            }
        }
        act(&shared, &mut machine, &hands, &mut asked);
        shared.failover.tending.store(machine.is_tending(), Ordering::Relaxed);
        let status = match shared.snapshot().group {
            Some(_) => Vec::new(),
            None => machine.status(),
        };
        if **shared.failover.status.load() != status {
            shared.failover.status.store(Arc::new(status));
        }
    }
}

/// What is agreed with other proxies, as far as the machine needs to know.
fn lead(shared: &Shared) -> Lead {
    let Some(standing) = shared.standing() else { return Lead::alone() };
    Lead {
        acts: standing.leads,
        cleared: standing.cleared,
        changing: standing.changing || standing.switching,
        others: standing.others > 0,
        leader: standing.leader.map(Arc::from),
        why: standing.writes.err().map(Arc::from),
    }
}

fn act(
    shared: &Shared,
    machine: &mut Machine,
    hands: &[mpsc::UnboundedSender<(StepId, Step)>],
    asked: &mut Option<oneshot::Sender<Result<String, String>>>,
) {
    while let Some(effect) = machine.poll_effect() {
        tracing::debug!(?effect, "failover");
        effectuate(shared, effect, hands, asked);
    }
}

/// Has a server get another's data; answers when that is begun, or why it is not.
fn rebuild(
    machine: &mut Machine,
    shared: &Arc<Shared>,
    tools: &Arc<Tools>,
    (name, force): (&str, bool),
    answer: oneshot::Sender<Result<String, String>>,
) {
    // What brings the data itself need not be able to log in there.
    let down = !tools.rebuild_command.is_empty();
    let fit =
        find(shared, name).and_then(|server| Ok((server, machine.donor(server, force, down)?)));
    let (server, donor) = match fit {
        Ok(fit) => fit,
        Err(why) => return drop(answer.send(Err(why))),
    };
    machine.rebuild_begins(server);
    let rebuild = Rebuild { shared: shared.clone(), tools: tools.clone(), server, donor };
    tokio::spawn(async move {
        let checked = timeout(CHECK, rebuild.check()).await;
        match checked.unwrap_or_else(|_| Err("the servers did not answer in time".to_owned())) {
            Ok(begins) => {
                let _ = answer.send(Ok(begins));
                rebuild.run().await;
            }
            Err(why) => {
                rebuild.refused().await;
                let _ = answer.send(Err(why));
            }
        }
    });
}

fn find(shared: &Shared, name: &str) -> Result<usize, String> {
    let snapshot = shared.snapshot();
    snapshot.find(name).map(|server| usize::from(server.id.0)).ok_or_else(|| {
        let known: Vec<_> = snapshot.servers.iter().map(|s| s.name.to_string()).collect();
        format!("no server is named {name:?}; there are {}", known.join(", "))
    })
}

/// The answer, if it is there at once.
fn begin(
    machine: &mut Machine,
    shared: &Shared,
    request: Request,
    now: Instant,
) -> Result<Option<String>, String> {
    let find = |name: &str| find(shared, name);
    let lags = || shared.snapshot().servers.iter().map(|server| server.lag).collect::<Vec<_>>();
    match request {
        Request::Switchover { to, rehearse } => {
            let to = to.as_deref().map(find).transpose()?;
            if rehearse {
                let plan = machine.rehearse(to, &lags())?;
                let numbered =
                    plan.iter().enumerate().map(|(i, step)| format!("{}. {step}", i + 1));
                return Ok(Some(numbered.collect::<Vec<_>>().join("\n")));
            }
            machine.switchover(to, &lags(), now)?;
        }
        Request::Failover { to, force } => {
            machine.failover(to.as_deref().map(find).transpose()?, force, now)?;
        }
        Request::Rejoin { server, .. } => machine.rejoin(find(&server)?)?,
        Request::RebuildEnds { server, failed } => {
            machine.rebuild_ends(server, failed);
            return Ok(Some(String::new()));
        }
    }
    Ok(None)
}

fn tell_able(
    shared: &Shared,
    config: &ProxyConfig,
    able: &Result<(), Arc<str>>,
    told: &mut Option<Result<(), Arc<str>>>,
) {
    if told.as_ref() == Some(able) || shared.snapshot().group.is_some() {
        return;
    }
    match able {
        Err(why) if config.failover.auto != Some(false) => {
            shared.tell(
                "failover_unable",
                format!("Pointsman follows the primary but can't replace it: {why}"),
            );
        }
        Ok(()) if told.is_some() => {
            shared.tell("failover_able", "Pointsman can replace the primary".to_owned());
        }
        _ => {}
    }
    *told = Some(able.clone());
}

pub(super) fn id_of(server: usize) -> ServerId {
    ServerId(u16::try_from(server).expect("servers are numbered with u16"))
}

fn effectuate(
    shared: &Shared,
    effect: Effect,
    hands: &[mpsc::UnboundedSender<(StepId, Step)>],
    asked: &mut Option<oneshot::Sender<Result<String, String>>>,
) {
    match effect {
        Effect::Do { id, step } => drop(hands[step.server()].send((id, step))),
        Effect::Look => shared.look_everywhere(),
        Effect::Hold { old, why } => shared.update(|topology| topology.hold(id_of(old), &why)),
        Effect::Release => shared.update(crate::roles::Topology::release),
        Effect::Depose { server, why } => {
            shared.update(|topology| topology.depose(id_of(server), &why));
        }
        Effect::Reinstate { server } => {
            shared.update(|topology| topology.reinstate(id_of(server)));
        }
        Effect::Promoted { server, inherited } => {
            shared.update(|topology| topology.promoted(id_of(server), inherited));
        }
        Effect::Tell { code, server, text } => shared.tell_of(code, id_of(server), text),
        Effect::Answer(answer) => {
            if let Some(asked) = asked.take() {
                let _ = asked.send(answer);
            }
        }
        Effect::Count { planned } => {
            let driver = &shared.failover;
            let counter = if planned { &driver.switchovers } else { &driver.failovers };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Does the steps of one server, one after the other. One that only waits, or is none that a change of the
/// primary may wait for, gives way to the next.
async fn work(
    tools: Arc<Tools>,
    server: usize,
    mut steps: mpsc::UnboundedReceiver<(StepId, Step)>,
    outcomes: mpsc::UnboundedSender<(StepId, Result<Outcome, Failure>)>,
) {
    let mut hands = Hands { tools, server, link: None };
    let mut next = None;
    loop {
        let Some((id, step)) = (match next.take() {
            Some(step) => Some(step),
            None => steps.recv().await,
        }) else {
            return;
        };
        let gives_way = matches!(step, Step::Settle { .. } | Step::Wake { .. });
        let outcome = tokio::select! {
            outcome = timeout(step.limit(), hands.perform(&step)) => outcome
                .map_err(|_| format!("not done within {} ms", step.limit().as_millis())),
            Some(newer) = steps.recv(), if gives_way => {
                next = Some(newer);
                Err("it gave way to what comes next".to_owned())
            }
        };
        let outcome = outcome.unwrap_or_else(|text| {
            hands.link = None;
            Err(Failure { text, late: true })
        });
        if let Err(failure) = &outcome {
            tracing::debug!(server, ?step, ?failure, "failover step");
        }
        if outcomes.send((id, outcome)).is_err() {
            return;
        }
    }
}

/// Finds out what the account may do, now and then.
async fn watch_grants(
    shared: Arc<Shared>,
    tools: Arc<Tools>,
    user: String,
    replicates: bool,
    able: mpsc::UnboundedSender<Result<(), Arc<str>>>,
) {
    shared.all_looked_at().await;
    loop {
        let found = look_at_grants(&shared, &tools, &user, replicates).await;
        let pause = GRANTS[usize::from(found.as_ref().is_some_and(Result::is_ok))];
        if let Some(found) = found
            && able.send(found).is_err()
        {
            return;
        }
        sleep(pause).await;
    }
}

/// `None` if no server could be asked.
async fn look_at_grants(
    shared: &Shared,
    tools: &Tools,
    user: &str,
    replicates: bool,
) -> Option<Result<(), Arc<str>>> {
    let snapshot = shared.snapshot();
    let mut asked = false;
    for server in &snapshot.servers {
        if matches!(server.role, Role::Down | Role::Unknown) {
            continue;
        }
        let target = tools.target(usize::from(server.id.0));
        let name = &server.name;
        let missing = match timeout(shared.timeout(), ask_grants(target, replicates)).await {
            Ok(Ok(missing)) => missing,
            Ok(Err(mysql_async::Error::Server(e))) => {
                let why = format!("{user} can't log in to {name}: error {}: {}", e.code, e.message);
                return Some(Err(why.into()));
            }
            _ => continue,
        };
        asked = true;
        if !missing.is_empty() {
            let why = format!(
                "its account lacks privileges on {name}: {}",
                grants::grant(&missing, user)
            );
            return Some(Err(why.into()));
        }
    }
    asked.then_some(Ok(()))
}

async fn ask_grants(
    target: &Target,
    replicates: bool,
) -> Result<Vec<&'static str>, mysql_async::Error> {
    let mut link: Link = target.connect().await?;
    let rows = link.rows("SHOW GRANTS").await?;
    let lines: Vec<_> = rows.iter().filter_map(|row| Fields(row).first()).collect();
    Ok(grants::missing(link.flavour(), lines.iter().map(String::as_str), replicates))
}
