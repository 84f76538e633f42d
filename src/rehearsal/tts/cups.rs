//! What gateways ask for themselves: CUPS (`pkg/basicstation/cups/update_info.go`), and their connection to the Gateway Server
//! (`pkg/gatewayserver/gatewayserver.go`, `updateConnStats`). Neither is gRPC: a simulated gateway calls in-process. CUPS also
//! fetches the certificate of the address that it names, which is not done here.

use std::{collections::HashMap, fmt, io};

use prost_reflect::{DynamicMessage, MapKey, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx, EntityKind, Now, Tts,
    failure::{Failure, Kind},
    gateways,
};
use crate::{map::path, model::ids::Eui64, proto, rehearsal::store::Table};

const NS: &str = "pkg/basicstation/cups";
const UNAUTHENTICATED: Kind =
    Kind::new(Code::Unauthenticated, NS, "unauthenticated", "call was not authenticated");
const NO_TARGET_KEY: Kind = Kind::new(
    Code::NotFound,
    NS,
    "target_cups_credentials_not_found",
    "Target CUPS credentials not found for gateway `{gateway_uid}`",
);
const NO_LNS_KEY: Kind = Kind::new(
    Code::NotFound,
    NS,
    "lns_credentials_not_found",
    "LNS credentials not found for gateway `{gateway_uid}`",
);

/// What CUPS has for a gateway.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CupsAnswer {
    /// Where it asks next.
    pub cups_uri: Option<String>,
    /// With which key it asks next.
    pub cups_key: Option<String>,
    /// Where its LNS is.
    pub lns_address: Option<String>,
    /// The key for it.
    pub lns_key: Option<String>,
}

impl fmt::Debug for CupsAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CupsAnswer")
            .field("cups_uri", &self.cups_uri)
            .field("lns_address", &self.lns_address)
            .finish_non_exhaustive()
    }
}

impl Tts {
    /// A gateway asks CUPS at `uri` with its key.
    ///
    /// # Errors
    /// What the real server answers.
    pub fn cups(&self, eui: Eui64, uri: &str, key: &str) -> Result<CupsAnswer, Failure> {
        let mut store = self.store();
        let mut ctx = Ctx {
            store: &mut store,
            index: &self.index,
            settings: &self.settings,
            bearer: Some(key),
            headers: Vec::new(),
            now: Now::read(),
        };
        update_info(&mut ctx, eui, uri)
    }

    /// A gateway connects to the Gateway Server, or its connection ends: what is known of it is kept for two days more.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn connect_gateway(&self, id: &str, connected: bool) -> io::Result<()> {
        let mut store = self.store();
        let known = store.get(Table::Connections, id).cloned();
        let mut stats = known.unwrap_or_else(|| proto::message("GatewayConnectionStats"));
        path::set(&mut stats, "protocol", Value::String("ws".to_owned()));
        let (set, cleared) =
            if connected { ("connected_at", "disconnected_at") } else { ("disconnected_at", "connected_at") };
        path::set(&mut stats, set, Now::read().timestamp());
        path::clear(&mut stats, cleared);
        store.put(Table::Connections, id, stats)
    }
}

fn text(gateway: &DynamicMessage, at: &str) -> Option<String> {
    let bytes = path::bytes(gateway, at);
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

fn update_info(ctx: &mut Ctx<'_>, eui: Eui64, uri: &str) -> Result<CupsAnswer, Failure> {
    let Some(mut gateway) = gateways::by_eui(ctx, eui).cloned() else {
        return Err(gateways::NOT_FOUND_BY_EUI.with(json!({"gateway_eui": eui.to_string()})));
    };
    let id = path::string(&gateway, "ids.gateway_id");
    ctx.require(
        EntityKind::Gateway,
        &id,
        &["GATEWAY_INFO", "GATEWAY_SETTINGS_BASIC", "GATEWAY_READ_SECRETS"],
    )
    .map_err(|denied| UNAUTHENTICATED.failure().because(denied))?;
    let (target, key) = (path::string(&gateway, "target_cups_uri"), text(&gateway, "target_cups_key.value"));
    let mut answer = CupsAnswer::default();
    if ctx.settings.allow_cups_uri_update && !target.is_empty() && target != uri {
        let key = key.ok_or_else(|| NO_TARGET_KEY.with(json!({"gateway_uid": id})))?;
        (answer.cups_uri, answer.cups_key) = (Some(target), Some(key));
    } else if key.is_some() {
        // Taken to be a new key for this very CUPS.
        answer.cups_key = key;
    } else {
        let key = text(&gateway, "lbs_lns_secret.value");
        answer.lns_key = Some(key.ok_or_else(|| NO_LNS_KEY.with(json!({"gateway_uid": id})))?);
        answer.lns_address = Some(path::string(&gateway, "gateway_server_address"));
    }
    let attributes = path::get(&gateway, "attributes").map(std::borrow::Cow::into_owned);
    let mut attributes: HashMap<MapKey, Value> =
        attributes.as_ref().and_then(Value::as_map).cloned().unwrap_or_default();
    let seen = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    attributes.insert(MapKey::String("cups-last-seen".to_owned()), Value::String(seen));
    path::set(&mut gateway, "attributes", Value::Map(attributes));
    ctx.store.put(Table::Gateways, &id, gateway)?;
    Ok(answer)
}
