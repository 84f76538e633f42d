//! From the configuration to the two sides: resolves secrets, starts embedded stacks, makes clients.

use std::{io, net::SocketAddr, sync::Arc};

use super::{Exit, Failure};
use crate::{
    config::{self, Config, Env, Other, Rehearsal},
    engine::{
        event::Sink,
        run::{Job, Pace},
    },
    model::{ids::AppId, secret::Secret},
    plan::{
        facts::{Hosts, IdFrom, SessionMode, Versions, Wishes},
        finding::Kind,
    },
    proto,
    rehearsal::{self, Served, Tts},
    source::tts::TtsSource,
    target::tts::TtsTarget,
    tts::{Stack, application::Owner},
    wire::{self, Client, Endpoint, Settings, Side, Tls},
};

/// Both sides, ready to be asked. Embedded stacks live as long as this does.
#[derive(Debug)]
pub struct Sides {
    /// What is moved.
    pub jobs: Vec<Job>,
    embedded: Vec<Embedded>,
}

/// An embedded stack that listens on loopback.
#[derive(Debug)]
pub struct Embedded {
    /// Its rules and its store.
    pub tts: Arc<Tts>,
    /// Its listener.
    pub served: Served,
}

impl Sides {
    /// The embedded stacks, source first.
    pub fn embedded(&self) -> &[Embedded] {
        &self.embedded
    }
}

/// Connects to what the configuration names.
///
/// # Errors
/// Secrets that cannot be had, files that cannot be read, embedded stacks that cannot start.
pub async fn sides(config: &Config, events: &Sink) -> Result<Sides, Failure> {
    let mut embedded = Vec::new();
    let source = Place::start(&config.source, Side::Source, &mut embedded).await?;
    let target = Place::start(&config.target, Side::Target, &mut embedded).await?;
    jobs(config, &source, &target, events).map(|jobs| Sides { jobs, embedded })
}

/// As [`sides`], with an embedded stack in the target's place.
///
/// # Errors
/// As [`sides`].
pub async fn with_embedded(
    config: &Config,
    source: Option<Embedded>,
    target: Embedded,
    events: &Sink,
) -> Result<Sides, Failure> {
    let mut embedded = Vec::new();
    let from = match source {
        Some(source) => Place::embedded(source, &mut embedded),
        None => Place::start(&config.source, Side::Source, &mut embedded).await?,
    };
    let to = Place::embedded(target, &mut embedded);
    jobs(config, &from, &to, events).map(|jobs| Sides { jobs, embedded })
}

fn jobs(config: &Config, source: &Place, target: &Place, events: &Sink) -> Result<Vec<Job>, Failure> {
    let owner = match &config.owner {
        Some(config::Owner::User(id)) => Some(Owner::User(id.clone())),
        Some(config::Owner::Organization(id)) => Some(Owner::Organization(id.clone())),
        // The administrator of an embedded stack owns what is made there.
        None if target.is_embedded() => Some(Owner::User(rehearsal::ADMIN.to_owned())),
        None => None,
    };
    let to = target.stack(Side::Target, config, None, events)?;
    let mut jobs = Vec::new();
    for application in &config.applications {
        let from = source.stack(Side::Source, config, application.api_key.as_ref(), events)?;
        let others = source.others(config, events)?;
        let devices = application.devices.select(io::stdin()).map_err(|e| {
            Failure::new(Exit::Usage, format!("application {}: {e}", application.source), None)
        })?;
        jobs.push(Job {
            source: TtsSource::new(from, application.source.clone(), others),
            target: TtsTarget::new(to.clone(), application.target.clone()),
            owner: owner.clone(),
            wishes: wishes(config, &application.target),
            devices,
        });
    }
    Ok(jobs)
}

/// How the configuration wants a run to go.
pub fn pace(config: &Config) -> Pace {
    Pace {
        in_flight: config.rollout.in_flight,
        max_failures: config.rollout.max_failures,
        clear: config.clear.mode,
        clear_when: config.clear.when,
        hold: config.clear.hold,
        max_devices: config.clear.max_devices,
        only_begun: false,
    }
}

fn wishes(config: &Config, target_app: &AppId) -> Wishes {
    let transform = &config.transform;
    Wishes {
        target_app: target_app.clone(),
        session: match transform.session {
            config::SessionMode::Keep => SessionMode::Keep,
            config::SessionMode::Drop => SessionMode::Drop,
            config::SessionMode::Auto => SessionMode::Auto,
        },
        abp_reset: transform.abp_reset.iter().map(|id| id.as_str().to_owned()).collect(),
        frequency_plans: transform.frequency_plans.clone(),
        default_frequency_plan: transform.default_frequency_plan.clone(),
        id_prefix: transform.device_id.prefix.clone(),
        id_from: match transform.device_id.from {
            config::IdFrom::Id => IdFrom::Id,
            config::IdFrom::Eui => IdFrom::Eui,
        },
        id_rename: transform.device_id.rename,
        versions: Versions {
            mac: numbers("MACVersion", &transform.mac_version),
            phy: numbers("PHYVersion", &transform.phy_version),
        },
        attributes: transform.attributes.clone(),
        allowed: transform.allow_loss.iter().filter_map(|name| Kind::allowable(name)).collect(),
    }
}

/// The numbers of versions that the configuration names.
fn numbers(enumeration: &str, versions: &[(glob::Pattern, String)]) -> Vec<(glob::Pattern, i32)> {
    let enumeration = proto::enumeration(enumeration);
    let number = |name: &str| enumeration.get_value_by_name(name).map(|v| v.number());
    versions.iter().filter_map(|(shape, name)| Some((shape.clone(), number(name)?))).collect()
}

/// Where a side is: a deployment of the configuration, or an embedded one.
enum Place {
    Real(config::Stack),
    Embedded { addr: SocketAddr, host: String, key: String },
}

impl Place {
    async fn start(side: &config::Side, which: Side, embedded: &mut Vec<Embedded>) -> Result<Self, Failure> {
        match side {
            config::Side::Tts(stack) => Ok(Self::Real(stack.clone())),
            config::Side::Rehearsal(rehearsal) => {
                let started = start(rehearsal, which).await?;
                Ok(Self::embedded(started, embedded))
            }
        }
    }

    fn embedded(started: Embedded, embedded: &mut Vec<Embedded>) -> Self {
        let settings = started.tts.settings();
        let place = Self::Embedded {
            addr: started.served.addr,
            host: settings.host.clone(),
            key: settings.api_key.clone(),
        };
        embedded.push(started);
        place
    }

    fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded { .. })
    }

    fn stack(
        &self,
        side: Side,
        config: &Config,
        own_key: Option<&config::SecretRef>,
        events: &Sink,
    ) -> Result<Stack, Failure> {
        let settings = settings(side, config, events);
        match self {
            Self::Embedded { addr, host, key } => {
                let endpoint =
                    Endpoint { host: addr.ip().to_string(), port: addr.port(), tls: Tls::Plaintext };
                let client = Client::new(endpoint, Some(Secret::new(key.clone())), settings).map_err(call)?;
                let hosts =
                    Hosts { ns: host.clone(), as_: host.clone(), js: host.clone(), known_as: Vec::new() };
                Ok(one_address(client, hosts))
            }
            Self::Real(stack) => {
                let key = secret(own_key.unwrap_or(&stack.api_key))?;
                real(stack, key, settings)
            }
        }
    }

    fn others(&self, config: &Config, events: &Sink) -> Result<Vec<Stack>, Failure> {
        match self {
            Self::Embedded { .. } => Ok(Vec::new()),
            Self::Real(stack) => {
                stack.others.iter().map(|o| other(o, settings(Side::Source, config, events))).collect()
            }
        }
    }
}

fn real(stack: &config::Stack, key: Secret, settings: Settings) -> Result<Stack, Failure> {
    let tls = tls(stack.ca.as_ref(), stack.insecure);
    let at = |address: &config::Address| Endpoint {
        host: address.host.clone(),
        port: address.port,
        tls: tls.clone(),
    };
    let is = Client::new(at(&stack.identity_server), Some(key), settings).map_err(call)?;
    let hosts = Hosts {
        ns: stack.network_server.host.clone(),
        as_: stack.application_server.host.clone(),
        js: stack.join_server.host.clone(),
        known_as: stack.known_as.clone(),
    };
    Ok(Stack {
        ns: is.at(at(&stack.network_server)).map_err(call)?,
        as_: is.at(at(&stack.application_server)).map_err(call)?,
        js: is.at(at(&stack.join_server)).map_err(call)?,
        is,
        hosts,
    })
}

fn other(other: &Other, settings: Settings) -> Result<Stack, Failure> {
    let tls = tls(other.ca.as_ref(), other.insecure);
    let endpoint = Endpoint { host: other.address.host.clone(), port: other.address.port, tls };
    let client = Client::new(endpoint, Some(secret(&other.api_key)?), settings).map_err(call)?;
    let host = other.address.host.clone();
    let known_as = other.known_as.clone();
    Ok(one_address(client, Hosts { ns: host.clone(), as_: host.clone(), js: host, known_as }))
}

fn one_address(client: Client, hosts: Hosts) -> Stack {
    Stack { is: client.clone(), ns: client.clone(), as_: client.clone(), js: client, hosts }
}

fn tls(ca: Option<&std::path::PathBuf>, insecure: bool) -> Tls {
    match (insecure, ca) {
        (true, _) => Tls::Plaintext,
        (false, Some(ca)) => Tls::Ca(ca.clone()),
        (false, None) => Tls::System,
    }
}

fn settings(side: Side, config: &Config, events: &Sink) -> Settings {
    let limits = &config.limits;
    let limit = match side {
        Side::Source => limits.source,
        Side::Target => limits.target,
    };
    Settings {
        deadline: limits.deadline,
        connect_timeout: limits.connect_timeout,
        max_message: limits.max_message,
        limit: limit.map(|r| wire::Rate::new(r.calls, r.per)),
        observer: Arc::new(events.clone()),
        ..Settings::new(side)
    }
}

fn secret(reference: &config::SecretRef) -> Result<Secret, Failure> {
    reference.resolve(&Env::process()).map_err(|e| {
        let help = e.help();
        Failure::new(Exit::Usage, e, Some(help))
    })
}

fn call(error: wire::Error) -> Failure {
    let hint = error.hint();
    Failure::new(super::exit::of_call(&error), error, hint)
}

/// Starts an embedded stack on loopback and loads its fleet, unless its state file has one.
///
/// # Errors
/// Files that cannot be read, a port that cannot be had.
pub async fn start(rehearsal: &Rehearsal, which: Side) -> Result<Embedded, Failure> {
    let failed =
        |e: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("the embedded {which}: {e}"), None);
    let settings = rehearsal::Settings {
        name: which.to_string(),
        host: rehearsal.host.clone(),
        net_id: rehearsal.net_id,
        dev_addr_prefixes: rehearsal.dev_addr_prefixes.clone(),
        state: rehearsal.state.clone(),
        rate_limit: rehearsal.rate_limit.map(|r| rehearsal::RateLimit::per_entity(r.calls.get(), r.per)),
        ..rehearsal::Settings::default()
    };
    let tts = Tts::new(settings).map_err(|e| failed(&e))?;
    if tts.store().is_empty() {
        rehearsal::load(&tts, rehearsal.devices.as_deref(), rehearsal.application.as_deref())
            .map_err(|e| failed(&e))?;
    }
    serve(tts, which).await
}

/// An embedded stack at another address: one deployment, seen from both sides.
///
/// # Errors
/// When it cannot listen.
pub async fn again(embedded: &Embedded, which: Side) -> Result<Embedded, Failure> {
    serve(Arc::clone(&embedded.tts), which).await
}

async fn serve(tts: Arc<Tts>, which: Side) -> Result<Embedded, Failure> {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    match rehearsal::serve(Arc::clone(&tts), listen, None).await {
        Ok(served) => Ok(Embedded { tts, served }),
        Err(e) => Err(Failure::new(Exit::Failed, format!("the embedded {which}: {e}"), None)),
    }
}
