//! The end device registries: one interface over the four components.

use prost_reflect::{DynamicMessage, Value};

use super::{Stack, marker, set_app};
use crate::{
    map::{mask, path},
    model::{
        device::{Component, Record},
        ids::{AppId, DeviceId, Eui64},
    },
    proto,
    wire::{About, Answer, Call, Error, Kind, List},
};

/// Devices in one page of a list: the most that a server of 3.32.1 takes.
const PAGE: u32 = 1000;

impl Stack {
    /// The IS records of all devices of an application, with every path that the Identity Server knows. The marker of a
    /// run is none of them.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn list_devices(&self, app: &AppId, paths: &[String]) -> Result<Vec<Record>, Error> {
        let mut request = proto::message("ListEndDevicesRequest");
        set_app(&mut request, "application_ids", app);
        path::set(&mut request, "order", Value::String("device_id".into()));
        let method = "/ttn.lorawan.v3.EndDeviceRegistry/List";
        let list = List { method, request, items: "end_devices", page_size: PAGE, paths: paths.to_vec() };
        let listing = self.is.pages(list, Call::safe(about(app))).await?;
        Ok(listing.items.into_iter().map(Record).filter(|r| !marker::is_marker(r)).collect())
    }

    /// One component's record of a device, with the given paths; `None` when it has none.
    ///
    /// # Errors
    /// Those of the call; not-found answers other than "no such device" stay errors.
    pub async fn device(
        &self,
        component: Component,
        app: &AppId,
        device: &DeviceId,
        paths: &[String],
    ) -> Result<Option<Record>, Error> {
        match self.get(component, app, device, paths).await {
            Ok((answer, _unknown_here)) => Ok(Some(Record(answer.message))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get(
        &self,
        component: Component,
        app: &AppId,
        device: &DeviceId,
        paths: &[String],
    ) -> Result<(Answer, Vec<String>), Error> {
        let mut request = proto::message("GetEndDeviceRequest");
        set_app(&mut request, "end_device_ids.application_ids", app);
        path::set(&mut request, "end_device_ids.device_id", Value::String(device.as_str().to_owned()));
        let call = Call::safe(about_device(app, device));
        self.client(component).unary_masked(method(component, Verb::Get), request, paths, call).await
    }

    /// Creates a record that is not there. It is sent again only when the first attempt surely did nothing: the calls of
    /// NS, AS and JS are upserts, and a late second one would overwrite what the device has done since.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn create_device(
        &self,
        component: Component,
        app: &AppId,
        device: &DeviceId,
        message: DynamicMessage,
        paths: &[String],
    ) -> Result<(), Error> {
        let request = if component == Component::Is {
            let mut request = proto::message("CreateEndDeviceRequest");
            path::set(&mut request, "end_device", Value::Message(message));
            request
        } else {
            set_request("SetEndDeviceRequest", message, paths)
        };
        let call = Call::create(about_device(app, device));
        self.client(component).unary(method(component, Verb::Set), request, call).await.map(drop)
    }

    /// Sets paths of a record that is there.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn update_device(
        &self,
        component: Component,
        app: &AppId,
        device: &DeviceId,
        message: DynamicMessage,
        paths: &[String],
    ) -> Result<(), Error> {
        let (method, request) = match component {
            Component::Is => (
                "/ttn.lorawan.v3.EndDeviceRegistry/Update",
                set_request("UpdateEndDeviceRequest", message, paths),
            ),
            _ => (method(component, Verb::Set), set_request("SetEndDeviceRequest", message, paths)),
        };
        let call = Call::safe(about_device(app, device));
        self.client(component).unary(method, request, call).await.map(drop)
    }

    /// Removes a component's record; `false` when there was none.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn delete_device(
        &self,
        component: Component,
        app: &AppId,
        device: &DeviceId,
    ) -> Result<bool, Error> {
        let mut request = proto::message("EndDeviceIdentifiers");
        set_app(&mut request, "application_ids", app);
        path::set(&mut request, "device_id", Value::String(device.as_str().to_owned()));
        let call = Call::safe(about_device(app, device));
        match self.client(component).unary(method(component, Verb::Delete), request, call).await {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Which device has this pair of EUIs in the deployment, if any: application and device ID.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn device_by_euis(
        &self,
        join_eui: Eui64,
        dev_eui: Eui64,
    ) -> Result<Option<(AppId, DeviceId)>, Error> {
        let mut request = proto::message("GetEndDeviceIdentifiersForEUIsRequest");
        path::set(&mut request, "join_eui", Value::Bytes(join_eui.0.to_vec().into()));
        path::set(&mut request, "dev_eui", Value::Bytes(dev_eui.0.to_vec().into()));
        let call = Call::safe(About::nothing());
        match self.is.unary("/ttn.lorawan.v3.EndDeviceRegistry/GetIdentifiersForEUIs", request, call).await {
            Ok(answer) => Ok(Some((
                AppId::unchecked(path::string(&answer.message, "application_ids.application_id")),
                DeviceId::unchecked(path::string(&answer.message, "device_id")),
            ))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The paths of `wanted` that this deployment's component refuses in a mask.
    ///
    /// Masks are checked before the device is looked up (recorded), so that a device that cannot exist will do.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn refused_paths(
        &self,
        component: Component,
        app: &AppId,
        wanted: &[String],
    ) -> Result<Vec<String>, Error> {
        let nobody = DeviceId::unchecked("stackferry-version-probe");
        match self.get(component, app, &nobody, wanted).await {
            Ok((_, refused)) => Ok(refused),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Denied { .. }) => {
                Ok(self.client(component).refused(method(component, Verb::Get), wanted))
            }
            Err(error) => Err(error),
        }
    }
}

fn about(app: &AppId) -> About {
    About::application(app.as_str())
}

fn about_device(app: &AppId, device: &DeviceId) -> About {
    About::device(app.as_str(), device.as_str())
}

fn set_request(name: &str, message: DynamicMessage, paths: &[String]) -> DynamicMessage {
    let mut request = proto::message(name);
    path::set(&mut request, "end_device", Value::Message(message));
    path::set(&mut request, "field_mask", Value::Message(mask::message(paths)));
    request
}

/// The answers that say "this component has no record of the device" (recorded: each component has its own).
fn is_absent(error: &Error) -> bool {
    *error.kind() == Kind::NotFound
        && [
            ("pkg/identityserver/store", "end_device_not_found"),
            ("pkg/redis", "not_found"),
            ("pkg/joinserver", "device_not_found"),
            ("pkg/networkserver", "device_not_found"),
            ("pkg/applicationserver", "device_not_found"),
        ]
        .iter()
        .any(|(namespace, name)| error.is(namespace, name))
}

#[derive(Clone, Copy)]
enum Verb {
    Get,
    Set,
    Delete,
}

fn method(component: Component, verb: Verb) -> &'static str {
    match (component, verb) {
        (Component::Is, Verb::Get) => "/ttn.lorawan.v3.EndDeviceRegistry/Get",
        (Component::Is, Verb::Set) => "/ttn.lorawan.v3.EndDeviceRegistry/Create",
        (Component::Is, Verb::Delete) => "/ttn.lorawan.v3.EndDeviceRegistry/Delete",
        (Component::Js, Verb::Get) => "/ttn.lorawan.v3.JsEndDeviceRegistry/Get",
        (Component::Js, Verb::Set) => "/ttn.lorawan.v3.JsEndDeviceRegistry/Set",
        (Component::Js, Verb::Delete) => "/ttn.lorawan.v3.JsEndDeviceRegistry/Delete",
        (Component::As, Verb::Get) => "/ttn.lorawan.v3.AsEndDeviceRegistry/Get",
        (Component::As, Verb::Set) => "/ttn.lorawan.v3.AsEndDeviceRegistry/Set",
        (Component::As, Verb::Delete) => "/ttn.lorawan.v3.AsEndDeviceRegistry/Delete",
        (Component::Ns, Verb::Get) => "/ttn.lorawan.v3.NsEndDeviceRegistry/Get",
        (Component::Ns, Verb::Set) => "/ttn.lorawan.v3.NsEndDeviceRegistry/Set",
        (Component::Ns, Verb::Delete) => "/ttn.lorawan.v3.NsEndDeviceRegistry/Delete",
    }
}
