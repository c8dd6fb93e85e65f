//! The classic proofs, one after the other, told in sentences.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Answer, CLIENT, DIRECTORS, LONG, ReferenceSite, Tally, WEB, await_that, unable};

/// What one proof showed.
struct Row {
    proof: &'static str,
    shown: String,
    gap: Option<Duration>,
}

struct Walk {
    site: ReferenceSite,
    rows: Vec<Row>,
}

/// Starts the site, goes through the proofs, tells of each on standard output, and puts everything
/// away again.
///
/// # Errors
/// What did not hold.
pub fn walk(pointsman: &Path) -> Result<()> {
    let begin = Instant::now();
    if let Some(why) = unable() {
        bail!("{why}");
    }
    heading("the site: databases, web servers with PHP and a proxy each, a network between them");
    let site = ReferenceSite::start(pointsman)?;
    println!("all up after {:.1} s", begin.elapsed().as_secs_f64());
    let mut walk = Walk { site, rows: Vec::new() };
    walk.proofs()?;
    walk.table();
    drop(walk);
    println!(
        "\nall proofs hold, after {:.0} s; nothing is left behind",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

impl Walk {
    fn proofs(&mut self) -> Result<()> {
        self.directors_start()?;
        self.requests_alternate()?;
        self.pages_write_and_read_back()?;
        self.active_director_stopped()?;
        self.both_stopped()?;
        self.both_back()?;
        self.checks_by_reload()?;
        self.active_director_killed()?;
        self.web_server_killed()?;
        self.replica_killed()?;
        self.primary_killed()
    }

    fn directors_start(&mut self) -> Result<()> {
        heading("two directors with the site's own keepalived.conf, unchanged");
        let taken = self.site.start_directors()?;
        println!("{}", self.site.pointsman(DIRECTORS[0], &["status"])?.trim_end());
        self.note(
            "directors start",
            format!(".88 has the virtual address after {:.1} s, .99 stands by", secs(taken)),
            None,
        );
        Ok(())
    }

    fn requests_alternate(&mut self) -> Result<()> {
        heading("four requests of test.html");
        let four = self.four()?;
        self.note("four requests", four, None);
        Ok(())
    }

    /// Four answers that alternate between the web servers.
    fn four(&self) -> Result<String> {
        let four = self.site.get("/test.html", 4)?;
        let names = all_good(&four)?;
        ensure!(
            names[0] != names[1] && names[..2] == names[2..] && names.iter().all(|n| is_web(n)),
            "not in turn: {names:?}"
        );
        Ok(names.join(", "))
    }

    /// Pages that write through the proxy and read back; who did it.
    fn pages(&self, count: usize) -> Result<Vec<String>> {
        let answers = self.site.get("/note.php", count)?;
        all_good(&answers)
    }

    fn pages_write_and_read_back(&mut self) -> Result<()> {
        heading("a PHP page that writes through the proxy and reads back on another connection");
        let pages = self.pages(4)?;
        print_lines(&pages);
        ensure!(
            pages.iter().all(|p| p.contains("written by db1, read from db2")),
            "writes belong on db1, reads on db2: {pages:?}"
        );
        let webs = WEB.map(|w| pages.iter().filter(|p| p.starts_with(&format!("web{w}"))).count());
        ensure!(webs == [2, 2], "not in turn: {pages:?}");
        let shown = "4 of 4 on both web servers: written by db1, read back from db2".to_owned();
        self.note("pages", shown, None);
        Ok(())
    }

    fn active_director_stopped(&mut self) -> Result<()> {
        heading("the active director is stopped");
        let load = self.site.load("/test.html")?;
        load.await_answers(10)?;
        self.site.director(0)?.stop()?;
        self.site.directors[0] = None;
        self.site.await_holder(DIRECTORS[1])?;
        load.await_answers(50)?;
        let tally = load.stop()?;
        let four = self.four()?;
        let page = self.pages(2)?;
        print_lines(&page);
        let shown = format!("{four}; of {}", requests(&tally));
        self.note("active director stopped", shown, Some(tally.gap));
        Ok(())
    }

    fn both_stopped(&mut self) -> Result<()> {
        heading("the other director is stopped too");
        self.site.director(1)?.stop()?;
        self.site.directors[1] = None;
        self.site.network.forget_neighbours(CLIENT)?;
        let answer = self.site.get("/test.html", 1)?.remove(0);
        match answer {
            Err(why) if why == "no route to host" => {
                self.note("both stopped", why, None);
                Ok(())
            }
            other => bail!("there should be no route to host, but: {other:?}"),
        }
    }

    fn both_back(&mut self) -> Result<()> {
        heading("both are back");
        let taken = self.site.start_directors()?;
        let four = self.four()?;
        let page = self.pages(2)?;
        print_lines(&page);
        self.note("both back", format!("{four}, {:.1} s after the start", secs(taken)), None);
        Ok(())
    }

    fn checks_by_reload(&mut self) -> Result<()> {
        heading("both get a file that checks the web servers (config/site/checked), and reload");
        let load = self.site.load("/test.html")?;
        load.await_answers(10)?;
        for (i, host) in DIRECTORS.into_iter().enumerate() {
            self.site.configure(i, "checked")?;
            println!(".{host}: {}", self.site.pointsman(host, &["reload"])?.trim_end());
        }
        load.await_answers(50)?;
        let tally = load.stop()?;
        ensure!(tally.failed == 0, "requests failed: {tally:?}");
        let four = self.four()?;
        let shown = format!("{four}; of {}", requests(&tally));
        self.note("health checks by reload", shown, Some(tally.gap));
        Ok(())
    }

    fn active_director_killed(&mut self) -> Result<()> {
        heading("the active director is killed with -9");
        let load = self.site.load("/test.html")?;
        load.await_answers(10)?;
        self.site.director(0)?.kill()?;
        self.site.directors[0] = None;
        self.site.await_holder(DIRECTORS[1])?;
        load.await_answers(50)?;
        let tally = load.stop()?;
        let four = self.four()?;
        let shown = format!("{four}; .88 does not keep the address; of {}", requests(&tally));
        self.note("active director killed -9", shown, Some(tally.gap));
        self.site.start_director(0)?;
        self.site.await_holder(DIRECTORS[0])?;
        println!("it is back and has taken over again");
        Ok(())
    }

    fn web_server_killed(&mut self) -> Result<()> {
        heading("web33's nginx is killed with -9");
        let load = self.site.load("/test.html")?;
        load.await_answers(10)?;
        self.site.web[0].nginx.kill()?;
        let down = self.await_answers("web44 alone answers", |names| {
            names.iter().all(|n| n.as_deref() == Ok("web44"))
        })?;
        println!("{}", self.site.pointsman(DIRECTORS[0], &["servers"])?.trim_end());
        let page = self.pages(2)?;
        print_lines(&page);
        let tally = load.stop()?;
        let shown =
            format!("web44 alone answers after {:.1} s; of {}", secs(down), requests(&tally));
        self.note("web server killed -9", shown, None);

        let host = self.site.web[0].host;
        self.site.web[0].nginx = self.site.start_nginx(host)?;
        let up = self.await_answers("web33 answers again", |names| {
            names.iter().all(Answer::is_ok) && names.contains(&Ok("web33".to_owned()))
        })?;
        let four = self.four()?;
        self.note("web server back", format!("{four}, {:.1} s after its start", secs(up)), None);
        Ok(())
    }

    /// Until four requests are answered as they should be.
    fn await_answers(&self, what: &str, good: impl Fn(&[Answer]) -> bool) -> Result<Duration> {
        let awaited = await_that(what, LONG, || Ok(good(&self.site.get("/test.html", 4)?)));
        awaited.with_context(|| self.site.logs())
    }

    fn replica_killed(&mut self) -> Result<()> {
        heading("the database replica is killed with -9");
        let load = self.site.load("/note.php")?;
        load.await_answers(10)?;
        self.site.databases.replicas()[0].kill9()?;
        let pages = self.pages(10)?;
        print_lines(&pages[..2]);
        ensure!(
            pages.iter().all(|p| p.ends_with("written by db1, read from db1")),
            "there is only db1: {pages:?}"
        );
        load.await_answers(50)?;
        let tally = load.stop()?;
        ensure!(tally.failed == 0, "pages failed: {tally:?}");
        let shown = format!("the primary takes its reads; of {}", requests(&tally));
        self.note("replica killed -9", shown, Some(tally.gap));

        self.site.databases.replicas()[0].start()?;
        let back = await_that("the replica takes reads again", LONG, || {
            Ok(self.pages(2)?.iter().all(|p| p.ends_with("read from db2")))
        })?;
        println!("{}", self.site.pointsman(WEB[0], &["servers"])?.trim_end());
        let shown = format!("takes reads again {:.1} s after its start", secs(back));
        self.note("replica back", shown, None);
        Ok(())
    }

    fn primary_killed(&mut self) -> Result<()> {
        heading("the database primary is killed with -9");
        let load = self.site.load("/note.php")?;
        load.await_answers(10)?;
        self.site.databases.primary().kill9()?;
        let next = await_that("pages are written by db2", LONG, || {
            let pages = self.site.get("/note.php", 2)?;
            let by_the_next = "written by db2, read from db2";
            Ok(pages.iter().all(|p| p.as_ref().is_ok_and(|p| p.ends_with(by_the_next))))
        })?;
        load.await_answers(50)?;
        let tally = load.stop()?;
        // A page whose INSERT was in flight is told so if nobody can say what became of it.
        ensure!(tally.failed <= 1, "more failed than what was in flight: {tally:?}");
        let pages = self.pages(2)?;
        print_lines(&pages);
        let shown = format!(
            "db2 is the primary, pages are written and read there after {:.1} s; of {}",
            secs(next),
            requests(&tally)
        );
        self.note("primary killed -9", shown, Some(tally.gap));

        self.site.databases.primary().start()?;
        let back = await_that("the former primary takes reads as a replica", LONG, || {
            let pages = self.pages(2)?;
            Ok(pages.iter().all(|p| p.ends_with("written by db2, read from db1")))
        })?;
        println!("{}", self.site.pointsman(WEB[0], &["servers"])?.trim_end());
        let shown = format!("db1 is db2's replica {:.1} s after its start", secs(back));
        self.note("former primary back", shown, None);
        Ok(())
    }

    fn note(&mut self, proof: &'static str, shown: String, gap: Option<Duration>) {
        println!("{shown}");
        self.rows.push(Row { proof, shown, gap });
    }

    fn table(&self) {
        heading("what was shown; the gap is the longest time between two answers");
        let width = self.rows.iter().map(|r| r.proof.len()).max().unwrap_or(0);
        for row in &self.rows {
            let gap = row.gap.map_or(String::new(), |gap| format!("{} ms", gap.as_millis()));
            println!("{:width$}  {gap:>8}  {}", row.proof, row.shown);
        }
    }
}

fn heading(text: &str) {
    println!("\n--- {text}");
}

fn print_lines(lines: &[String]) {
    for line in lines {
        println!("{line}");
    }
}

fn is_web(name: &str) -> bool {
    WEB.iter().any(|w| name == format!("web{w}"))
}

fn all_good(answers: &[Answer]) -> Result<Vec<String>> {
    let good: std::result::Result<Vec<_>, _> = answers.iter().cloned().collect();
    good.map_err(|why| anyhow::anyhow!("a request failed: {why}; all: {answers:?}"))
}

fn requests(tally: &Tally) -> String {
    let all = tally.answered + tally.failed;
    match &tally.first_failure {
        None => format!("{all} requests meanwhile none failed"),
        Some(why) => format!("{all} requests meanwhile {} failed ({why})", tally.failed),
    }
}

fn secs(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
