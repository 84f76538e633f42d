//! Webhooks and pub/subs (`pkg/applicationserver/io/{web,pubsub}`).

use prost_reflect::{DynamicMessage, MapKey, Value};
use tonic::Code;

use super::{
    Ctx,
    failure::{Failure, Kind},
    fields,
    methods::{empty, unimplemented},
    stored::REDIS_NOT_FOUND,
};
use crate::{
    map::{mask, path, rules},
    proto,
    rehearsal::store::Table,
};

const TEMPLATE_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/applicationserver/io/web",
    "template_not_found",
    "template `{template_id}` not found",
);
const RECOVERED: Kind = Kind::new(Code::Internal, "pkg/rpcserver", "rpc_recovered", "Internal Server Error");

const WRITE: &[&str] =
    &["APPLICATION_SETTINGS_BASIC", "APPLICATION_TRAFFIC_READ", "APPLICATION_TRAFFIC_DOWN_WRITE"];

/// What differs between the two registries.
struct Registry {
    table: Table,
    message: &'static str,
    list: &'static str,
    /// Field of the request that holds the integration, and that of its ID.
    field: &'static str,
    id: &'static str,
}

const WEBHOOKS: Registry = Registry {
    table: Table::Webhooks,
    message: "ApplicationWebhook",
    list: "ApplicationWebhooks",
    field: "webhook",
    id: "webhook_id",
};
const PUBSUBS: Registry = Registry {
    table: Table::PubSubs,
    message: "ApplicationPubSub",
    list: "ApplicationPubSubs",
    field: "pubsub",
    id: "pub_sub_id",
};

pub(super) fn call(
    ctx: &mut Ctx<'_>,
    method: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    let (service, name) = method.split_once('/').unwrap_or_default();
    let registry = if service == "ApplicationWebhookRegistry" { WEBHOOKS } else { PUBSUBS };
    match name {
        "Get" => registry.get(ctx, &request),
        "List" => registry.list(ctx, &request),
        "Set" => registry.set(ctx, &request),
        "Delete" => registry.delete(ctx, &request),
        "GetFormats" => Ok(registry.formats()),
        "ListTemplates" => Ok(proto::message("ApplicationWebhookTemplates")),
        "GetTemplate" => {
            let id = path::string(&request, "ids.template_id");
            Err(TEMPLATE_NOT_FOUND.with(serde_json::json!({"template_id": id})))
        }
        _ => Err(unimplemented()),
    }
}

/// A mask with what every entry is answered with.
fn implicit(paths: &[String]) -> Vec<String> {
    fields::with(paths, &["created_at", "ids", "updated_at"])
}

impl Registry {
    fn ids(&self, message: &DynamicMessage, at: &str) -> (String, String) {
        let prefix = if at.is_empty() { String::new() } else { format!("{at}.") };
        let application = path::string(message, &format!("{prefix}application_ids.application_id"));
        let key = format!("{application}.{}", path::string(message, &format!("{prefix}{}", self.id)));
        (application, key)
    }

    fn get(&self, ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
        let (application, key) = self.ids(request, "ids");
        ctx.require_application(&application, &["APPLICATION_TRAFFIC_READ"])?;
        let stored = ctx.store.get(self.table, &key).ok_or_else(|| REDIS_NOT_FOUND.failure())?;
        fields::filter(stored, &implicit(&mask::of(request)))
    }

    fn list(&self, ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
        let application = path::string(request, "application_ids.application_id");
        ctx.require_application(&application, &["APPLICATION_TRAFFIC_READ"])?;
        let paths = implicit(&mask::of(request));
        let entries: Result<Vec<_>, Failure> = ctx
            .owned(self.table, &application)
            .into_iter()
            .map(|entry| Ok(Value::Message(fields::filter(entry, &paths)?)))
            .collect();
        let entries = entries?;
        if self.table == Table::Webhooks {
            ctx.header("x-total-count", &entries.len().to_string());
        }
        let mut answer = proto::message(self.list);
        path::set(&mut answer, &format!("{}s", self.field), Value::List(entries));
        Ok(answer)
    }

    fn set(&self, ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
        let sent = path::child(request, self.field).unwrap_or_else(|| proto::message(self.message));
        let (application, key) = self.ids(&sent, "ids");
        ctx.require_application(&application, WRITE)?;
        if self.table == Table::PubSubs && !path::has(&sent, "provider") {
            // The real server panics, and recovers.
            return Err(RECOVERED.failure());
        }
        let paths = mask::of(request);
        let stored = ctx.store.get(self.table, &key).cloned();
        let id = format!("ids.{}", self.id);
        let new = stored.is_none();
        if !new && paths.is_empty() {
            return fields::filter(&stored.unwrap_or(sent), &implicit(&paths));
        }
        let sets = if new { fields::with(&paths, &["ids.application_ids", &id]) } else { paths.clone() };
        let mut entry = stored.unwrap_or_else(|| proto::message(self.message));
        fields::set(&mut entry, Some(&sent), &sets)?;
        path::set(&mut entry, "updated_at", ctx.now.timestamp());
        if new {
            path::set(&mut entry, "created_at", ctx.now.timestamp());
        }
        if let Some(broken) = rules::violation(&entry) {
            return Err(Failure::invalid(&broken));
        }
        ctx.store.put(self.table, &key, entry.clone())?;
        fields::filter(&entry, &implicit(&paths))
    }

    fn delete(&self, ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
        let (application, key) = self.ids(request, "");
        ctx.require_application(&application, WRITE)?;
        // Whether it was there or not.
        ctx.store.remove(self.table, &key)?;
        Ok(empty())
    }

    fn formats(&self) -> DynamicMessage {
        let (message, formats): (_, &[(&str, &str)]) = match self.table {
            Table::Webhooks => {
                ("ApplicationWebhookFormats", &[("json", "JSON"), ("protobuf", "Protocol Buffers")])
            }
            _ => ("ApplicationPubSubFormats", &[("json", "JSON")]),
        };
        let text =
            |(key, name): &(&str, &str)| (MapKey::String((*key).into()), Value::String((*name).into()));
        let mut answer = proto::message(message);
        path::set(&mut answer, "formats", Value::Map(formats.iter().map(text).collect()));
        answer
    }
}
