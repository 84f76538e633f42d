//! The Things Stack as a source.

use prost_reflect::Value;

use super::{Source, Turn};
use crate::{
    map::{owner, path, ttn_v2::V2Device},
    model::{
        device::{Component, Record, Records},
        ids::{AppId, DeviceId, Eui64},
    },
    plan::{
        MUTE,
        facts::{TargetFacts, host},
        transform::{Found, Write},
    },
    proto,
    tts::{Stack, marker},
    wire::Error,
};

/// How often NS and AS are read again when they hold different sessions.
const READ_AGAIN: u32 = 2;

/// One application of a deployment.
#[derive(Debug, Clone)]
pub struct TtsSource {
    stack: Stack,
    app: AppId,
    /// Other deployments that hold records of this one's devices.
    others: Vec<Stack>,
}

impl TtsSource {
    /// `others` are read where an IS record names their host.
    pub fn new(stack: Stack, app: AppId, others: Vec<Stack>) -> Self {
        Self { stack, app, others }
    }

    /// The deployment.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The deployment, and others that hold records of its devices.
    pub fn stacks(&self) -> impl Iterator<Item = &Stack> {
        self.others.iter().chain([&self.stack])
    }

    /// The application.
    pub fn app(&self) -> &AppId {
        &self.app
    }

    /// The deployment that holds a component's record of this device: by the address in the IS record.
    fn place(&self, component: Component, is: Option<&Record>) -> Place<'_> {
        let field = match component {
            Component::Ns => "network_server_address",
            Component::As => "application_server_address",
            Component::Js => "join_server_address",
            Component::Is => return Place::Here,
        };
        let address = is.map(|r| path::string(&r.0, field)).unwrap_or_default();
        if address.is_empty() {
            return Place::Here;
        }
        if self.stack.hosts.mean(component, &address) {
            return Place::Here;
        }
        match self.others.iter().find(|other| other.hosts.mean(component, &address)) {
            Some(other) => Place::Other(other),
            None => Place::Unknown(host(&address)),
        }
    }

    /// Reads the records of these components from where the IS record says that they are.
    async fn registries(
        &self,
        device: &DeviceId,
        found: &mut Found,
        components: &[Component],
    ) -> Result<(), Error> {
        for component in components.iter().copied() {
            let (stack, unknown) = match self.place(component, found.records.is.as_ref()) {
                Place::Here => (&self.stack, None),
                Place::Other(stack) => {
                    // A Join Server elsewhere is an external one: it is read, and stays where it is.
                    found.external_js |= component == Component::Js;
                    (stack, None)
                }
                Place::Unknown(host) => (&self.stack, Some(host)),
            };
            let record = stack.device(component, &self.app, device, &owner::whole(component)).await?;
            found.elsewhere.retain(|(c, _)| *c != component);
            if let (None, Some(host)) = (&record, unknown) {
                found.elsewhere.push((component, host));
            }
            *found.records.slot(component) = record;
        }
        Ok(())
    }

    /// The deployment to write to for this component, read from the IS record as it is now.
    async fn writer(&self, component: Component, device: &DeviceId) -> Result<&Stack, Error> {
        if self.others.is_empty() || component == Component::Is {
            return Ok(&self.stack);
        }
        let is = self.stack.device(Component::Is, &self.app, device, &owner::whole(Component::Is)).await?;
        Ok(match self.place(component, is.as_ref()) {
            Place::Other(stack) => stack,
            Place::Here | Place::Unknown(_) => &self.stack,
        })
    }
}

enum Place<'a> {
    Here,
    Other(&'a Stack),
    Unknown(String),
}

impl Source for TtsSource {
    async fn list(&self) -> Result<Vec<Found>, Error> {
        let records = self.stack.list_devices(&self.app, &owner::whole(Component::Is)).await?;
        Ok(records
            .into_iter()
            .map(|is| Found {
                records: Records { is: Some(is), ..Records::default() },
                hosts: self.stack.hosts.clone(),
                ..Found::default()
            })
            .collect())
    }

    async fn read(&self, device: &DeviceId, listed: Found) -> Result<Found, Error> {
        let mut found = Found { hosts: self.stack.hosts.clone(), ..Found::default() };
        found.records.is = match listed.records.is {
            Some(is) => Some(is),
            None => {
                let paths = owner::whole(Component::Is);
                let is = self.stack.device(Component::Is, &self.app, device, &paths).await?;
                // Somebody may have chosen it by name.
                is.filter(|record| !marker::is_marker(record))
            }
        };
        self.registries(device, &mut found, &[Component::Ns, Component::As, Component::Js]).await?;
        // An uplink between the two readings may have turned the pending session into the session: read both again.
        for _ in 0..READ_AGAIN {
            if !found.hold_different_sessions() {
                break;
            }
            self.registries(device, &mut found, &[Component::Ns, Component::As]).await?;
        }
        Ok(found)
    }

    async fn write_whole(&self, _: &Turn, _: &DeviceId, _: &V2Device) -> Result<(), Error> {
        let (client, what) = (&self.stack.is, "The Things Stack keeps a device in several records");
        Err(Error::unsupported(client.side(), client.endpoint(), what))
    }

    async fn schedule_downlinks(&self, device: &DeviceId, on: Option<bool>) -> Result<(), Error> {
        let mut message = proto::message("EndDevice");
        path::set(&mut message, "ids.device_id", Value::String(device.as_str().to_owned()));
        let app = self.app.as_str().to_owned();
        path::set(&mut message, "ids.application_ids.application_id", Value::String(app));
        if let Some(on) = on {
            path::set_wrapped(&mut message, MUTE, Value::Bool(on));
        }
        let stack = self.writer(Component::Ns, device).await?;
        stack.update_device(Component::Ns, &self.app, device, message, &[MUTE.to_owned()]).await
    }

    async fn clear(&self, device: &DeviceId, component: Component) -> Result<(), Error> {
        let stack = self.writer(component, device).await?;
        stack.delete_device(component, &self.app, device).await.map(drop)
    }

    async fn facts(&self) -> Result<TargetFacts, Error> {
        self.stack.facts(&self.app).await
    }

    async fn recreate(&self, device: &DeviceId, component: Component, write: &Write) -> Result<(), Error> {
        let stack = self.writer(component, device).await?;
        let Write { message, paths } = write.clone();
        stack.create_device(component, &self.app, device, message, &paths).await
    }

    async fn update(&self, device: &DeviceId, component: Component, write: &Write) -> Result<(), Error> {
        let stack = self.writer(component, device).await?;
        let Write { message, paths } = write.clone();
        stack.update_device(component, &self.app, device, message, &paths).await
    }

    async fn holder(&self, join_eui: Eui64, dev_eui: Eui64) -> Result<Option<(AppId, DeviceId)>, Error> {
        self.stack.device_by_euis(join_eui, dev_eui).await
    }
}
