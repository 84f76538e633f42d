//! The gateways that the source's CUPS sends to the target's (docs/servers.md, CUPS): `target_cups_uri` and `target_cups_key`
//! at the source, and the key for the target's LNS in the record there.

use prost_reflect::{DynamicMessage, Value};

use super::{Facts, Found, Wishes, eui, settings};
use crate::{
    map::path as at,
    plan::{
        finding::{Finding, Kind},
        transform::Write,
    },
};

/// Where the source's CUPS sends a gateway, and with which key.
pub const REDIRECT: [&str; 2] = ["target_cups_uri", "target_cups_key"];
const URI: &str = "target_cups_uri";
const KEY: &str = "target_cups_key.value";
/// When CUPS was asked last by a gateway, as CUPS itself notes it (`pkg/basicstation/cups/update_info.go`).
const LAST_SEEN: &str = "cups-last-seen";

/// What is done so that the source's CUPS sends a gateway to the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Redirect {
    /// Nothing: nobody has asked for it.
    #[default]
    Off,
    /// It is set.
    Set,
    /// It is set already.
    There,
    /// Nothing, and why.
    Not(&'static str),
}

impl Redirect {
    /// The word for it in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Set => "set",
            Self::There => "there",
            Self::Not(_) => "not",
        }
    }

    /// Why nothing is done.
    pub fn finding(self, gateway: &str) -> Option<Finding> {
        let Self::Not(why) = self else { return None };
        let text =
            format!("gateway {gateway}: the source's CUPS is not told to send it to the target: {why}");
        let finding = Finding::new(Kind::CupsRedirect, text);
        Some(finding.fix("change its own settings: the summary of the run says to what"))
    }
}

/// What CUPS and the Gateway Server have noted in the attributes of a gateway, by themselves.
pub(super) fn noted(attribute: &str) -> bool {
    ["cups-last-seen", "cups-station", "cups-model", "cups-package"].contains(&attribute)
}

/// What can be done for a gateway that the run registers.
pub fn decide(found: &Found, facts: &Facts, wishes: &Wishes) -> Redirect {
    if !wishes.cups_redirect {
        return Redirect::Off;
    }
    let message = &found.message;
    let uri = at::string(message, URI);
    let handed_out = ["lbs_lns_secret.value", KEY].iter().any(|secret| at::has(message, secret));
    match () {
        // Its key there is one of an earlier registration.
        () if uri == settings::cups_uri(&facts.gateway_server) => {
            Redirect::Not("it says so already, with a key that this run has not made")
        }
        () if !uri.is_empty() => Redirect::Not("it sends it to another CUPS already"),
        () if eui(message).is_none() => Redirect::Not("it has no EUI, by which CUPS knows a gateway"),
        () if !has_attribute(message, LAST_SEEN) => {
            Redirect::Not("its CUPS has never seen it (no attribute cups-last-seen)")
        }
        () if !found.secrets || !handed_out => Redirect::Not(
            "no secret of it can be read that CUPS hands out: it has none, or the API key of the source may not read it",
        ),
        () => Redirect::Set,
    }
}

/// What of it is left for one that was on the target before.
pub fn without_keys(decided: Redirect) -> Redirect {
    match decided {
        Redirect::Off => Redirect::Off,
        _ => Redirect::Not(
            "it was on the target before, and a key is made for a gateway that the run registers alone",
        ),
    }
}

fn has_attribute(gateway: &DynamicMessage, name: &str) -> bool {
    let attributes = at::get(gateway, "attributes");
    attributes
        .as_ref()
        .and_then(|all| all.as_map())
        .is_some_and(|all| all.keys().any(|key| at::key(key) == name))
}

/// The write that sends a gateway of the source to this CUPS. Address and key go together: without the first the second is a
/// key for the source's own CUPS, and without the second the source's CUPS answers nothing but errors.
pub fn there(id: &str, host: &str, key: &str) -> Write {
    let mut message = crate::proto::message("Gateway");
    at::set(&mut message, "ids.gateway_id", Value::String(id.to_owned()));
    at::set(&mut message, URI, Value::String(settings::cups_uri(host)));
    at::set(&mut message, KEY, Value::Bytes(key.as_bytes().to_vec().into()));
    Write { message, paths: REDIRECT.map(str::to_owned).to_vec() }
}

/// The write that sends it where it was sent before, which is nowhere as a rule.
pub fn back(found: &DynamicMessage) -> Write {
    let mut message = at::project(found, &["ids.gateway_id", URI, KEY]);
    if !at::has(&message, KEY) {
        at::clear(&mut message, "target_cups_key");
    }
    Write { message, paths: REDIRECT.map(str::to_owned).to_vec() }
}

/// True when `there` sends the gateway where `write` does.
pub fn is_so(write: &Write, there: &DynamicMessage) -> bool {
    at::string(&write.message, URI) == at::string(there, URI)
        && at::bytes(&write.message, KEY) == at::bytes(there, KEY)
}

/// What holds for all that are sent: of this no API tells.
pub fn caution(ca: Option<&str>) -> Finding {
    let text = "the source's CUPS has to be allowed to send gateways elsewhere (gcs.basic-station.allow-cups-uri-update), which no \
                API tells: where it is not, it hands the target's key out for itself, and these gateways reach their CUPS no \
                more, while they stay connected";
    let fix = match ca {
        Some(ca) => format!("ask its operator, who also has to trust {ca} there, or try it with one gateway"),
        None => "ask its operator, or try it with one gateway".to_owned(),
    };
    Finding::new(Kind::CupsRedirect, text).fix(fix)
}
