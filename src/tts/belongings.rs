//! What belongs to an application besides its devices, as calls: the same for every kind, by its table
//! (`plan::belongings::Sort`).

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value, prost::Message as _};

use super::{Stack, set_app};
use crate::{
    map::{mask, path},
    model::{belonging::ItemKey, ids::AppId},
    plan::{
        belongings::{Facts, Ids, Method, SORTS, Sort, rights},
        transform::Write,
    },
    proto,
    wire::{About, Call, Client, Error, Kind, List},
};

/// Items in one page of a list, where a list has pages.
const PAGE: u32 = 1000;

/// One of them on one side.
#[derive(Debug, Clone, Copy)]
pub struct Which<'a> {
    /// Its kind.
    pub sort: &'static Sort,
    /// The application on the side that is asked.
    pub app: &'a AppId,
    /// The device there; empty for what the application has.
    pub device: &'a str,
    /// Its identifier.
    pub id: &'a str,
}

impl<'a> Which<'a> {
    /// An item of the target; `name` is that of [`Found::target_name`](crate::plan::belongings::Found).
    pub fn there(sort: &'static Sort, key: &'a ItemKey, app: &'a AppId, name: &'a str) -> Self {
        let (device, id) = sort.names_there(key, name);
        Self { sort, app, device, id }
    }

    fn request(&self, method: Method) -> DynamicMessage {
        let mut request = proto::message(method.request);
        self.sort.ids.write(&mut request, method.at, self.app, self.device, self.id);
        request
    }

    fn about(&self) -> About {
        if self.device.is_empty() {
            About::application(self.app.as_str())
        } else {
            About::device(self.app.as_str(), self.device)
        }
    }
}

/// The ones that were listed; `None` when the key may not look.
pub type Listed = Option<Vec<DynamicMessage>>;

impl Stack {
    fn keeper(&self, sort: &Sort) -> &Client {
        self.client(sort.server)
    }

    /// All of one kind that an application has, or a device of it, whole.
    ///
    /// # Errors
    /// Those of the calls, but for missing rights.
    pub async fn belongings(&self, sort: &'static Sort, app: &AppId, device: &str) -> Result<Listed, Error> {
        let which = Which { sort, app, device, id: "" };
        let Some(method) = sort.list else {
            return match self.belonging(which).await {
                Ok(found) => Ok(Some(found.into_iter().collect())),
                Err(error) => nothing(error),
            };
        };
        let mut request = proto::message(method.request);
        if sort.is_of_device() {
            path::set(&mut request, "ids.device_id", Value::String(device.to_owned()));
            set_app(&mut request, "ids.application_ids", app);
        } else if path::exists(&request.descriptor(), "application_ids") {
            set_app(&mut request, "application_ids", app);
        } else {
            set_app(&mut request, "ids", app);
        }
        let list =
            List { method: method.rpc, request, items: method.field, page_size: PAGE, paths: sort.whole() };
        match self.keeper(sort).pages(list, Call::safe(which.about())).await {
            Ok(listing) => Ok(readable(sort, listing.items)),
            Err(error) => nothing(error),
        }
    }

    /// One of them, whole; `None` when there is none.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn belonging(&self, which: Which<'_>) -> Result<Option<DynamicMessage>, Error> {
        if which.sort.ids == Ids::Key && which.id.is_empty() {
            // It is yet to be made.
            return Ok(None);
        }
        let method = which.sort.get;
        let call = Call::safe(which.about());
        let (client, request) = (self.keeper(which.sort), which.request(method));
        let paths = which.sort.whole();
        let answer = if paths.is_empty() {
            client.unary(method.rpc, request, call).await
        } else {
            client.unary_masked(method.rpc, request, &paths, call).await.map(|(answer, _)| answer)
        };
        match answer {
            Ok(answer) => {
                let found = Some(as_listed(which.sort, answer.message));
                Ok(found.filter(|found| !which.sort.is_emptied() || !path::stored(found).is_empty()))
            }
            Err(error) if *error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets one of them. It is sent again only when the first attempt surely did nothing.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn set_belonging(&self, which: Which<'_>, write: &Write) -> Result<(), Error> {
        let method = which.sort.set;
        let mut request = proto::message(method.request);
        path::set(&mut request, method.field, Value::Message(write.message.clone()));
        which.sort.ids.write(&mut request, method.at, which.app, which.device, which.id);
        if path::exists(&request.descriptor(), "field_mask") {
            path::set(&mut request, "field_mask", Value::Message(mask::message(&write.paths)));
        }
        let call = Call::create(which.about());
        self.keeper(which.sort).unary(method.rpc, request, call).await.map(drop)
    }

    /// Deletes one of them; that there is none is fine.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn delete_belonging(&self, which: Which<'_>) -> Result<(), Error> {
        if which.sort.is_emptied() {
            return self.set_belonging(which, &which.sort.nothing()).await;
        }
        let method = which.sort.delete;
        let call = Call::safe(which.about());
        match self.keeper(which.sort).unary(method.rpc, which.request(method), call).await {
            Err(error) if *error.kind() == Kind::NotFound => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    /// What a target says of itself that matters to belongings of these kinds. `exists`: its application is there.
    ///
    /// # Errors
    /// Those of the calls, but for missing rights.
    pub async fn belonging_facts(
        &self,
        app: &AppId,
        sorts: &[&'static Sort],
        exists: bool,
    ) -> Result<Facts, Error> {
        let mut facts = Facts::default();
        for sort in sorts {
            let rpc = sort.list.map_or(sort.get.rpc, |list| list.rpc);
            let refused = self.keeper(sort).refused(rpc, &sort.whole());
            if !refused.is_empty() {
                facts.refused.insert(sort.name, refused);
            }
        }
        if sorts.iter().any(|sort| sort.copy == "pubsubs") {
            facts.disabled = self.disabled_providers().await?;
        }
        if exists {
            facts.rights = Some(self.rights(app).await?);
            if sorts.iter().any(|sort| sort.copy == "packages") {
                facts.packages = self.packages(app).await?;
            }
        }
        Ok(facts)
    }

    /// The names of the packages that an application can have; `None` when it cannot be asked.
    ///
    /// # Errors
    /// Those of the call, but for missing rights.
    pub async fn packages(&self, app: &AppId) -> Result<Option<BTreeSet<String>>, Error> {
        let mut request = proto::message("EndDeviceIdentifiers");
        set_app(&mut request, "application_ids", app);
        // Any device will do (recorded).
        path::set(&mut request, "device_id", Value::String("stackferry-probe".to_owned()));
        let method = "/ttn.lorawan.v3.ApplicationPackageRegistry/List";
        match self.as_.unary(method, request, Call::safe(About::application(app.as_str()))).await {
            Ok(answer) => Ok(Some(
                messages(&answer.message, "packages").iter().map(|p| path::string(p, "name")).collect(),
            )),
            Err(error)
                if matches!(error.kind(), Kind::Denied { .. } | Kind::NotFound | Kind::Unimplemented) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn disabled_providers(&self) -> Result<Vec<&'static str>, Error> {
        let request = proto::message("GetAsConfigurationRequest");
        let method = "/ttn.lorawan.v3.As/GetConfiguration";
        let disabled = proto::enumeration("AsConfiguration.PubSub.Providers.Status");
        let disabled = disabled.get_value_by_name("DISABLED").map(|v| v.number() as u64);
        match self.as_.unary(method, request, Call::safe(About::nothing())).await {
            Ok(answer) => {
                let status =
                    |p: &str| path::number(&answer.message, &format!("configuration.pubsub.providers.{p}"));
                Ok(["mqtt", "nats"].into_iter().filter(|p| Some(status(p)) == disabled).collect())
            }
            Err(error) if matches!(error.kind(), Kind::Denied { .. } | Kind::Unimplemented) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// Where the key may not look, or there is no such service, or no such application yet.
fn nothing(error: Error) -> Result<Listed, Error> {
    match error.kind() {
        Kind::Denied { .. } => Ok(None),
        Kind::Unimplemented | Kind::NotFound => Ok(Some(Vec::new())),
        _ => Err(error),
    }
}

/// What a list holds, or nothing when it was told without what is copied: who may not look at the rights of collaborators is
/// told who they are (docs/servers.md, Collaborators), and there is none without rights.
fn readable(sort: &Sort, items: Vec<DynamicMessage>) -> Listed {
    let hidden = sort.ids == Ids::Account && items.iter().any(|item| !path::has(item, "rights"));
    (!hidden).then(|| items.into_iter().map(|item| as_listed(sort, item)).collect())
}

/// An answer as the message of its kind: that of `GetCollaborator` has another name and the same fields.
fn as_listed(sort: &Sort, answer: DynamicMessage) -> DynamicMessage {
    let mut message = answer;
    if message.descriptor().name() != sort.message {
        let mut same = proto::message(sort.message);
        // What was just decoded decodes again.
        if same.merge(message.encode_to_vec().as_slice()).is_ok() {
            message = same;
        }
    }
    rights::in_order(&mut message);
    message
}

fn messages(message: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let list = path::get(message, field);
    let list = list.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
    list.iter().filter_map(|v| v.as_message().cloned()).collect()
}

/// All kinds that the words of `application.copy` take along.
pub fn chosen(copy: &BTreeSet<&'static str>) -> Vec<&'static Sort> {
    SORTS.into_iter().filter(|sort| copy.contains(sort.copy)).collect()
}
