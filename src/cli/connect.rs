//! From the configuration to the two sides: resolves secrets, starts embedded stacks, makes clients.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use prost_reflect::Value;

pub use super::applications::Which;
use super::{
    Exit, Failure,
    applications::jobs,
    embedded::{self, Embedded, EmbeddedTtnV2, EmbeddedTts},
};
use crate::{
    config::{self, Config, Env, Other},
    engine::{
        event::Sink,
        gateways::{self, GatewayJob},
        keys_file::KeysFile,
        run::{Jobs, Pace},
    },
    map::path,
    model::{ids::AppId, secret::Secret},
    plan::{
        self,
        facts::{Hosts, IdFrom, SessionMode, Versions, Wishes},
        finding::Kind,
    },
    proto, rehearsal,
    source::{
        any::AnySource,
        ttn_v2::{Handler, TtnV2Source},
    },
    tts::{Stack, application::Owner},
    wire::{self, Client, Endpoint, Settings, Side, Tls},
};

/// What V2 takes, hard-coded there (docs/servers.md, V2 rate limit).
const V2_RATE: wire::Rate = wire::Rate::per_second(5);

/// Both sides, ready to be asked. Embedded stacks live as long as this does.
#[derive(Debug)]
pub struct Sides {
    /// What is moved.
    pub jobs: Jobs,
    /// The applications of the configuration, each by its ID.
    pub applications: Vec<config::Application>,
    /// Gateways that are registered.
    pub gateways: Option<GatewayJob>,
    _embedded: Vec<Embedded>,
}

/// Connects to what the configuration names.
///
/// # Errors
/// Secrets that cannot be had, files that cannot be read, embedded stacks that cannot start.
pub async fn sides(config: &Config, which: Which, events: &Sink) -> Result<Sides, Failure> {
    let mut embedded = Vec::new();
    let source = Place::start(config, &config.source, Side::Source, &mut embedded).await?;
    let target = Place::start(config, &config.target, Side::Target, &mut embedded).await?;
    let gateways = gateways(config, &source, &target, events)?;
    let (jobs, applications) = jobs(config, which, (&source, &target), events).await?;
    Ok(Sides { jobs, applications, gateways, _embedded: embedded })
}

/// As [`sides`], with embedded stacks in their place.
///
/// # Errors
/// As [`sides`].
pub async fn with_embedded(
    config: &Config,
    source: Embedded,
    target: Embedded,
    events: &Sink,
) -> Result<Sides, Failure> {
    let (from, to) = (Place::of(&source), Place::of(&target));
    let gateways = gateways(config, &from, &to, events)?;
    let (jobs, applications) = jobs(config, Which::All, (&from, &to), events).await?;
    Ok(Sides { jobs, applications, gateways, _embedded: vec![source, target] })
}

fn account(owner: &config::Owner) -> Owner {
    match owner {
        config::Owner::User(id) => Owner::User(id.clone()),
        config::Owner::Organization(id) => Owner::Organization(id.clone()),
    }
}

/// Who owns what is made on the target.
pub(super) fn owner(config: &Config, target: &Place) -> Option<Owner> {
    match &config.owner {
        Some(owner) => Some(account(owner)),
        // The administrator of an embedded stack owns what is made there.
        None if target.is_embedded() => Some(Owner::User(rehearsal::ADMIN.to_owned())),
        None => None,
    }
}

fn gateways(
    config: &Config,
    source: &Place,
    target: &Place,
    events: &Sink,
) -> Result<Option<GatewayJob>, Failure> {
    let Some(wanted) = &config.gateways else { return Ok(None) };
    let which = match &wanted.which {
        config::WhichGateways::Owner(owner) => gateways::Which::Owner(account(owner)),
        config::WhichGateways::Listed(list) => gateways::Which::Listed(list.iter().map(listed).collect()),
        config::WhichGateways::Chosen(chosen) => {
            let chosen = chosen.select(io::stdin());
            match chosen.map_err(|e| Failure::new(Exit::Usage, format!("gateways: {e}"), None))? {
                config::Selection::All => {
                    gateways::Which::Glob(glob::Pattern::new("*").into_iter().collect())
                }
                config::Selection::Ids(ids) => {
                    gateways::Which::Ids(ids.iter().map(ToString::to_string).collect())
                }
                config::Selection::Glob(globs) => gateways::Which::Glob(globs),
            }
        }
    };
    let of_tts = !matches!(source, Place::TtnV2(_) | Place::EmbeddedTtnV2 { .. });
    let from = of_tts.then(|| source.stack(Side::Source, config, wanted.api_key.as_ref(), events));
    let ca = match &config.target {
        config::Side::Tts(stack) => stack.ca.as_ref().map(|ca| ca.display().to_string()),
        _ => None,
    };
    Ok(Some(GatewayJob {
        source: from.transpose()?,
        target: target.stack(Side::Target, config, None, events)?,
        owner: owner(config, target),
        which,
        wishes: plan::gateways::Wishes {
            prefix: wanted.id_prefix.clone(),
            people: config.people.clone(),
            api_keys: wanted.api_keys.clone(),
            frequency_plans: config.transform.frequency_plans.clone(),
            allowed: config.transform.allow_loss.iter().filter_map(|name| Kind::allowable(name)).collect(),
            cups_redirect: wanted.cups_redirect,
        },
        wait: wanted.wait,
        keys_file: wanted.keys_file.clone(),
        ca,
        max: wanted.max,
        in_flight: config.rollout.in_flight,
    }))
}

/// A gateway as the configuration has it.
fn listed(gateway: &config::ListedGateway) -> plan::gateways::Found {
    let text = |text: &str| Value::String(text.to_owned());
    let mut message = proto::message("Gateway");
    path::set(&mut message, "ids.gateway_id", text(&gateway.id));
    path::set(&mut message, "ids.eui", Value::Bytes(gateway.eui.0.to_vec().into()));
    path::set(&mut message, "frequency_plan_ids", Value::List(vec![text(&gateway.frequency_plan)]));
    if !gateway.name.is_empty() {
        path::set(&mut message, "name", text(&gateway.name));
    }
    plan::gateways::Found { id: gateway.id.clone(), message, secrets: true }
}

/// The file of the new API keys of applications.
pub fn keys_file(config: &Config, plan: &plan::Plan) -> Option<KeysFile> {
    let path = config.integrations.keys_file.clone()?;
    // Also those that cannot be read now: their keys were made by an earlier run.
    let failed = plan.failed.iter().map(|failed| (failed.source.clone(), failed.target.clone()));
    let pairs = plan.applications.iter().map(|app| (app.source.clone(), app.target.clone()));
    Some(KeysFile { path, applications: pairs.chain(failed).collect() })
}

/// How the configuration wants a run to go.
pub fn pace(config: &Config) -> Pace {
    Pace {
        in_flight: config.rollout.in_flight,
        max_failures: config.rollout.max_failures,
        stop: config.rollout.stop,
        clear: config.clear.mode,
        clear_when: config.clear.when,
        hold: config.clear.hold,
        max_devices: config.clear.max_devices,
        integrations: config.clear.integrations,
        api_keys: config.clear.api_keys,
        gateways: config.clear.gateways,
        only_begun: false,
    }
}

pub(super) fn wishes(config: &Config, application: &config::Application) -> Wishes {
    let transform = &config.transform;
    Wishes {
        target_app: application.target.clone(),
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
        copy: application.copy.iter().map(|copy| copy.word()).collect(),
        people: config.people.clone(),
        paused: config.integrations.paused,
    }
}

/// The numbers of versions that the configuration names.
fn numbers(enumeration: &str, versions: &[(glob::Pattern, String)]) -> Vec<(glob::Pattern, i32)> {
    let enumeration = proto::enumeration(enumeration);
    let number = |name: &str| enumeration.get_value_by_name(name).map(|v| v.number());
    versions.iter().filter_map(|(shape, name)| Some((shape.clone(), number(name)?))).collect()
}

/// Where a side is: a deployment of the configuration, or an embedded one.
pub(super) enum Place {
    Real(Box<config::Stack>),
    TtnV2(config::TtnV2),
    Embedded { addr: SocketAddr, host: String, key: String },
    EmbeddedTtnV2 { discovery: SocketAddr, keys: BTreeMap<String, String> },
}

impl Place {
    async fn start(
        config: &Config,
        side: &config::Side,
        which: Side,
        started: &mut Vec<Embedded>,
    ) -> Result<Self, Failure> {
        match side {
            config::Side::Tts(stack) => Ok(Self::Real(Box::new(stack.clone()))),
            config::Side::TtnV2(v2) => Ok(Self::TtnV2(v2.clone())),
            config::Side::Rehearsal(rehearsal) => {
                let stack = embedded::start(rehearsal, which, &applications(config)).await?;
                let place = Self::of(&stack);
                started.push(stack);
                Ok(place)
            }
        }
    }

    fn of(stack: &Embedded) -> Self {
        match stack {
            Embedded::Tts(EmbeddedTts { tts, served }) => Self::Embedded {
                addr: served.addr,
                host: tts.settings().host.clone(),
                key: tts.settings().api_key.clone(),
            },
            Embedded::TtnV2(EmbeddedTtnV2 { v2, served }) => {
                let applications = v2.settings().applications.iter();
                let keys = applications.filter_map(|a| Some((a.id.clone(), a.keys.first()?.key.clone())));
                Self::EmbeddedTtnV2 { discovery: served.discovery, keys: keys.collect() }
            }
        }
    }

    fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded { .. } | Self::EmbeddedTtnV2 { .. })
    }

    /// A deployment of The Things Stack with this key, and the other servers that hold records of its devices.
    pub(super) fn tts(
        &self,
        config: &Config,
        own_key: Option<&config::SecretRef>,
        events: &Sink,
    ) -> Result<(Stack, Vec<Stack>), Failure> {
        Ok((self.stack(Side::Source, config, own_key, events)?, self.others(config, events)?))
    }

    /// The application of V2; `None` where the source is none.
    pub(super) fn ttn_v2(
        &self,
        config: &Config,
        application: &config::Application,
        events: &Sink,
    ) -> Result<Option<AnySource>, Failure> {
        let app = application.source.clone();
        let (handler, key) = match self {
            Self::TtnV2(v2) => {
                let reference = application.access_key.as_ref().or(v2.access_key.as_ref());
                let missing =
                    || Failure::new(Exit::Usage, format!("application {app} has no access key"), None);
                (handler(v2)?, secret(reference.ok_or_else(missing)?)?)
            }
            Self::EmbeddedTtnV2 { discovery, keys } => {
                let endpoint = loopback(*discovery);
                let key = keys.get(app.as_str()).cloned().unwrap_or_default();
                (Handler::Discover(endpoint), Secret::new(key))
            }
            Self::Real(_) | Self::Embedded { .. } => return Ok(None),
        };
        let settings = Settings {
            limit: Some(config.limits.source.map_or(V2_RATE, |r| wire::Rate::new(r.calls, r.per))),
            ..settings(Side::Source, config, events)
        };
        Ok(Some(AnySource::TtnV2(TtnV2Source::new(app, handler, key, settings))))
    }

    pub(super) fn stack(
        &self,
        side: Side,
        config: &Config,
        own_key: Option<&config::SecretRef>,
        events: &Sink,
    ) -> Result<Stack, Failure> {
        let settings = settings(side, config, events);
        match self {
            Self::TtnV2(_) | Self::EmbeddedTtnV2 { .. } => {
                Err(Failure::new(Exit::Usage, "V2 has no components of The Things Stack", None))
            }
            Self::Embedded { addr, host, key } => {
                let client =
                    Client::new(loopback(*addr), Some(Secret::new(key.clone())), settings).map_err(call)?;
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
            Self::TtnV2(_) | Self::Embedded { .. } | Self::EmbeddedTtnV2 { .. } => Ok(Vec::new()),
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
        gs: is.at(at(&stack.gateway_server)).map_err(call)?,
        gateway_server: stack.gateway_server.host.clone(),
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
    Stack {
        is: client.clone(),
        ns: client.clone(),
        as_: client.clone(),
        gs: client.clone(),
        js: client,
        gateway_server: hosts.ns.clone(),
        hosts,
    }
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

pub(super) fn call(error: wire::Error) -> Failure {
    let hint = error.hint();
    Failure::new(super::exit::of_call(&error), error, hint)
}

/// The applications of the configuration at the source.
pub(super) fn applications(config: &Config) -> Vec<AppId> {
    config.applications.iter().map(|application| application.source.clone()).collect()
}

fn loopback(addr: SocketAddr) -> Endpoint {
    Endpoint { host: addr.ip().to_string(), port: addr.port(), tls: Tls::Plaintext }
}

/// Whom to ask for the devices of V2. Where certificates are named, they alone are trusted.
fn handler(v2: &config::TtnV2) -> Result<Handler, Failure> {
    let tls = |plain: bool| match (&v2.ca, plain) {
        (_, true) => Ok(Tls::Plaintext),
        (None, false) => Ok(Tls::System),
        (Some(file), false) => std::fs::read_to_string(file)
            .map(Tls::Pinned)
            .map_err(|e| Failure::new(Exit::Usage, format!("{}: {e}", file.display()), None)),
    };
    let at = |address: &config::Address, plain: bool| {
        Ok::<_, Failure>(Endpoint { host: address.host.clone(), port: address.port, tls: tls(plain)? })
    };
    Ok(match &v2.handler {
        Some(handler) => Handler::At(at(handler, false)?),
        None => Handler::Discover(at(&v2.discovery, v2.discovery_insecure)?),
    })
}
