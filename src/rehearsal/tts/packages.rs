//! Application packages: associations of devices and of applications (`pkg/applicationserver/io/packages`).

use prost_reflect::{DynamicMessage, Value};

use super::{
    Ctx, devices,
    failure::Failure,
    fields,
    methods::{empty, unimplemented},
    stored::{REDIS_NOT_FOUND, port_key},
};
use crate::{
    map::{mask, path, rules},
    proto,
    rehearsal::store::{Table, device_key},
};

/// Packages of a server, with the port that each suggests.
const PACKAGES: [(&str, u32); 3] =
    [("alcsync-v1", 202), ("lora-cloud-device-management-v1", 199), ("lora-cloud-geolocation-v3", 197)];

/// Associations of a device, or the defaults of an application.
struct Registry {
    table: Table,
    message: &'static str,
    list: &'static str,
    /// Field of a set request, and of a listing.
    field: &'static str,
    fields: &'static str,
    /// What is always written on creation.
    ids: [&'static str; 2],
}

const DEVICE: Registry = Registry {
    table: Table::Packages,
    message: "ApplicationPackageAssociation",
    list: "ApplicationPackageAssociations",
    field: "association",
    fields: "associations",
    ids: ["ids.end_device_ids", "ids.f_port"],
};
const DEFAULT: Registry = Registry {
    table: Table::PackageDefaults,
    message: "ApplicationPackageDefaultAssociation",
    list: "ApplicationPackageDefaultAssociations",
    field: "default",
    fields: "defaults",
    ids: ["ids.application_ids", "ids.f_port"],
};

pub(super) fn call(
    ctx: &mut Ctx<'_>,
    name: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    match name {
        "List" => list_packages(ctx, &request),
        "GetAssociation" => DEVICE.get(ctx, &request),
        "ListAssociations" => DEVICE.list(ctx, &request),
        "SetAssociation" => DEVICE.set(ctx, &request),
        "DeleteAssociation" => DEVICE.delete(ctx, &request),
        "GetDefaultAssociation" => DEFAULT.get(ctx, &request),
        "ListDefaultAssociations" => DEFAULT.list(ctx, &request),
        "SetDefaultAssociation" => DEFAULT.set(ctx, &request),
        "DeleteDefaultAssociation" => DEFAULT.delete(ctx, &request),
        _ => Err(unimplemented()),
    }
}

fn list_packages(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let (application, _) = devices::ids_at(request, "");
    ctx.require_application(&application, &["APPLICATION_SETTINGS_PACKAGES"])?;
    let package = |(name, port): (&str, u32)| {
        let mut package = proto::message("ApplicationPackage");
        path::set(&mut package, "name", Value::String(name.to_owned()));
        path::set(&mut package, "default_f_port", Value::U32(port));
        Value::Message(package)
    };
    let mut answer = proto::message("ApplicationPackages");
    path::set(&mut answer, "packages", Value::List(PACKAGES.into_iter().map(package).collect()));
    Ok(answer)
}

fn implicit(paths: &[String]) -> Vec<String> {
    fields::with(paths, &["created_at", "ids", "updated_at"])
}

impl Registry {
    /// The application and the owner's part of the key, from identifiers at `at` (with the port) or of the owner alone.
    fn owner(&self, message: &DynamicMessage, at: &str) -> (String, String) {
        let join =
            |more: &str| [at, more].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join(".");
        match self.table {
            Table::Packages => {
                let (application, device) = devices::ids_at(message, &join("end_device_ids"));
                let key = device_key(&application, &device);
                (application, key)
            }
            _ => {
                let application = path::string(message, &join("application_ids.application_id"));
                (application.clone(), application)
            }
        }
    }

    fn key(&self, message: &DynamicMessage, at: &str) -> (String, String) {
        let (application, owner) = self.owner(message, at);
        let port = if at.is_empty() { "f_port".to_owned() } else { format!("{at}.f_port") };
        (application, port_key(&owner, path::number(message, &port)))
    }

    fn require(ctx: &Ctx<'_>, application: &str) -> Result<(), Failure> {
        ctx.require_application(application, &["APPLICATION_SETTINGS_PACKAGES"])
    }

    fn get(&self, ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
        let (application, key) = self.key(request, "ids");
        Self::require(ctx, &application)?;
        let stored = ctx.store.get(self.table, &key).ok_or_else(|| REDIS_NOT_FOUND.failure())?;
        fields::filter(stored, &implicit(&mask::of(request)))
    }

    /// Without a limit everything is listed, and the total is not counted: it is answered as 0.
    fn list(&self, ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
        let (application, owner) = match self.table {
            Table::Packages => {
                let (application, device) = devices::ids_at(request, "ids");
                let key = device_key(&application, &device);
                (application, key)
            }
            _ => {
                let application = path::string(request, "ids.application_id");
                (application.clone(), application)
            }
        };
        Self::require(ctx, &application)?;
        let paths = implicit(&mask::of(request));
        let entries: Result<Vec<_>, Failure> = ctx
            .owned(self.table, &owner)
            .into_iter()
            .map(|entry| Ok(Value::Message(fields::filter(entry, &paths)?)))
            .collect();
        let mut entries = entries?;
        let limit = usize::try_from(path::number(request, "limit")).unwrap_or(usize::MAX);
        let total = if limit == 0 { 0 } else { entries.len() };
        if limit != 0 {
            let page = usize::try_from(path::number(request, "page")).unwrap_or(usize::MAX).max(1);
            entries = entries.into_iter().skip((page - 1).saturating_mul(limit)).take(limit).collect();
        }
        ctx.header("x-total-count", &total.to_string());
        let mut answer = proto::message(self.list);
        path::set(&mut answer, self.fields, Value::List(entries));
        Ok(answer)
    }

    fn set(&self, ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
        let sent = path::child(request, self.field).unwrap_or_else(|| proto::message(self.message));
        let (application, key) = self.key(&sent, "ids");
        Self::require(ctx, &application)?;
        let paths = mask::of(request);
        let stored = ctx.store.get(self.table, &key).cloned();
        let new = stored.is_none();
        if !new && paths.is_empty() {
            return fields::filter(&stored.unwrap_or(sent), &implicit(&paths));
        }
        let sets = if new { fields::with(&paths, &self.ids) } else { paths.clone() };
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
        let (application, key) = self.key(request, "");
        Self::require(ctx, &application)?;
        ctx.store.remove(self.table, &key)?;
        Ok(empty())
    }
}
