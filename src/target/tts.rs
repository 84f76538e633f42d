//! The Things Stack as a target.

use super::Target;
use crate::{
    model::{
        device::{Component, Record},
        ids::{AppId, DeviceId, Eui64},
    },
    plan::transform::Write,
    tts::Stack,
    wire::Error,
};

/// One application of a deployment.
#[derive(Debug, Clone)]
pub struct TtsTarget {
    stack: Stack,
    app: AppId,
}

impl TtsTarget {
    /// The application may not exist yet.
    pub fn new(stack: Stack, app: AppId) -> Self {
        Self { stack, app }
    }

    /// The deployment.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The application.
    pub fn app(&self) -> &AppId {
        &self.app
    }
}

impl Target for TtsTarget {
    async fn read(
        &self,
        device: &DeviceId,
        component: Component,
        paths: &[String],
    ) -> Result<Option<Record>, Error> {
        self.stack.device(component, &self.app, device, paths).await
    }

    async fn create(&self, device: &DeviceId, component: Component, write: &Write) -> Result<(), Error> {
        let Write { message, paths } = write.clone();
        self.stack.create_device(component, &self.app, device, message, &paths).await
    }

    async fn update(&self, device: &DeviceId, component: Component, write: &Write) -> Result<(), Error> {
        let Write { message, paths } = write.clone();
        self.stack.update_device(component, &self.app, device, message, &paths).await
    }

    async fn remove(&self, device: &DeviceId, component: Component) -> Result<(), Error> {
        self.stack.delete_device(component, &self.app, device).await.map(drop)
    }

    async fn holder(&self, join_eui: Eui64, dev_eui: Eui64) -> Result<Option<(AppId, DeviceId)>, Error> {
        self.stack.device_by_euis(join_eui, dev_eui).await
    }
}
