//! `rehearse`: the whole run, from what the real source holds, between two embedded stacks. The real source is only read.

use std::{path::PathBuf, time::Instant};

use clap::Args;

use super::{
    Exit, Failure, connect,
    embedded::{self, Embedded},
    load,
};
use crate::{
    config::{ClearGateways, ClearWhen, Config, Rehearsal, Side},
    engine::{event::Sink, rehearse, run::Stop},
    model::ids::NetId,
    report::{Terminal, progress},
    wire,
};

/// A rate that holds nobody up.
const FAST: &str = "100000/s";

/// What `rehearse` takes.
#[derive(Debug, Args)]
pub struct RehearseArguments {
    /// The migration, as TOML.
    config: PathBuf,
    /// Only start the embedded stacks of the configuration, say where they listen, and wait for Ctrl-C.
    #[arg(long)]
    serve: bool,
}

pub(super) async fn run(
    arguments: &RehearseArguments,
    terminal: &Terminal,
    verbose: u8,
) -> Result<Exit, Failure> {
    let mut config = load(&arguments.config, terminal)?;
    if arguments.serve {
        return serve(&config, terminal).await;
    }
    let begun = Instant::now();
    let folder = tempfile()?;
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let sink = Sink::new(sender);
    let stop = Stop::default();
    let work = async {
        // The real journal knows nothing of this, and this nothing of it.
        config.journal.path = folder.path.join("rehearsal.journal");
        config.journal.seal_key = None;
        let real = connect::sides(&config, connect::Which::All, &sink).await?;
        let mut source = Rehearsal { people: config.people.clone(), ..settings(&config.source) };
        let mut target = Rehearsal { people: config.people.clone(), ..settings(&config.target) };
        rehearse::mirror_facts(&real.jobs.ready, &mut source, &mut target).await?;
        let apps = connect::applications(&config);
        let source = embedded::start(&source, wire::Side::Source, &apps).await?;
        let one_deployment = rehearse::one_deployment(&real.jobs.ready).await?;
        let into = match &source {
            Embedded::Tts(source) => rehearse::Mirror::Tts(&source.tts),
            Embedded::TtnV2(source) => rehearse::Mirror::TtnV2(&source.v2),
        };
        let failed = rehearse::mirror_all(&real.jobs, into, &connect::pace(&config)).await?;
        config.applications = real.applications;
        config.applications.retain(|app| failed.iter().all(|failed| failed.source != app.source));
        let gateways = match &real.gateways {
            Some(job) => crate::engine::gateways::found(job).await?,
            None => Vec::new(),
        };
        let keys_in_use = real.jobs.ready.first().map(|job| job.keys_in_use.clone()).unwrap_or_default();
        if let Embedded::Tts(source) = &source {
            rehearse::mirror_gateways(&gateways, &source.tts)?;
        }
        let target = match &source {
            Embedded::Tts(source) if one_deployment => embedded::again(source, wire::Side::Target).await?,
            _ => embedded::start_tts(&target, wire::Side::Target).await?,
        };
        // Nobody joins an embedded stack or connects to it.
        config.clear.when = Some(ClearWhen::Verified);
        config.clear.gateways = ClearGateways::Nothing;
        // The embedded V2 does not limit anybody.
        if let Embedded::TtnV2(_) = &source {
            config.limits.source = FAST.parse().ok();
        }
        if let Some(gateways) = &mut config.gateways {
            // New API keys of an embedded stack are of use to nobody.
            gateways.keys_file = folder.path.join("gateway-keys.csv");
            gateways.wait = None;
        }
        if let Some(file) = &mut config.integrations.keys_file {
            *file = folder.path.join("application-keys.csv");
        }
        let mut sides = connect::with_embedded(&config, source, Embedded::Tts(target), &sink).await?;
        sides.jobs.failed = failed;
        for job in &mut sides.jobs.ready {
            job.keys_in_use.clone_from(&keys_in_use);
        }
        if let Some(job) = &mut sides.gateways {
            job.which = crate::engine::gateways::Which::Listed(gateways);
        }
        let consent = super::run::Consent { yes: true, take_over: false };
        let how = super::run::How { pace: connect::pace(&config), consent, planned: None };
        super::run::carry_out(&config, how, sides, terminal, sink, &stop).await
    };
    let (summary, ()) = tokio::join!(work, progress::watch(events, terminal, verbose));
    let Some(summary) = summary? else { return Ok(Exit::Done) };
    let again = format!("stackferry run {}", arguments.config.display());
    terminal.talk("this was a rehearsal: the source was only read, and nothing was written to the target");
    Ok(super::run::close(&summary, begun, &again, terminal))
}

/// The settings of an embedded stack: the configuration's own, or plain ones that take on the real side's facts.
fn settings(side: &Side) -> Rehearsal {
    match side {
        Side::Rehearsal(rehearsal) => {
            Rehearsal { devices: None, application: None, state: None, ..rehearsal.clone() }
        }
        Side::Tts(_) | Side::TtnV2(_) => Rehearsal {
            is_ttn_v2: matches!(side, Side::TtnV2(_)),
            devices: None,
            application: None,
            net_id: NetId([0; 3]),
            dev_addr_prefixes: Vec::new(),
            host: match side {
                Side::Tts(stack) => stack.network_server.host.clone(),
                _ => "localhost".to_owned(),
            },
            state: None,
            people: Default::default(),
            rate_limit: None,
        },
    }
}

async fn serve(config: &Config, terminal: &Terminal) -> Result<Exit, Failure> {
    let mut running = Vec::new();
    for (side, which) in [(&config.source, wire::Side::Source), (&config.target, wire::Side::Target)] {
        let Side::Rehearsal(rehearsal) = side else { continue };
        let started = embedded::start(rehearsal, which, &connect::applications(config)).await?;
        let listens = match &started {
            Embedded::Tts(tts) => {
                vec![("API key", tts.served.addr, tts.tts.settings().api_key.clone())]
            }
            Embedded::TtnV2(v2) => {
                let keys = v2.v2.settings().applications.iter().flat_map(|a| &a.keys);
                keys.map(|key| ("discovery, access key", v2.served.discovery, key.key.clone())).collect()
            }
        };
        for (what, address, key) in listens {
            terminal.data(&format!("{which}: {address} (plaintext), {what} {key}"));
            terminal.json(&crate::report::json::line(
                "serving",
                serde_json::json!({ "side": which.to_string(), "address": address.to_string(), "api_key": key }),
            ));
        }
        running.push(started);
    }
    if running.is_empty() {
        let hint = "use [source.rehearsal] or [target.rehearsal]".to_owned();
        return Err(Failure::new(
            Exit::Usage,
            "the configuration has no embedded stack to serve",
            Some(hint),
        ));
    }
    super::signals::wait().await;
    Ok(Exit::Done)
}

struct Folder {
    path: PathBuf,
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A private folder for the journal of the rehearsal, removed at the end.
fn tempfile() -> Result<Folder, Failure> {
    let mut random = [0; 8];
    let made = getrandom::fill(&mut random).map_err(std::io::Error::other).and_then(|()| {
        let path = std::env::temp_dir().join(format!("stackferry-{}", hex::encode(random)));
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map(|()| path)
    });
    made.map(|path| Folder { path })
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot make a folder for the rehearsal: {e}"), None))
}
