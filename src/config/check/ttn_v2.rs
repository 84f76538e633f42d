//! The Things Network Stack V2 as the source, and what it changes elsewhere in the file.

use super::{
    super::{
        address::{Address, DISCOVERY_PORT, HANDLER_PORT},
        checked::{Application, Clear, ClearMode, Rollout, Side, Transform, TtnV2},
        diagnostic::{Diagnostic, Place},
        env::FREQUENCY_PLAN,
        raw::RawTtnV2,
        read::join,
    },
    Checker,
};

/// The discovery server of the public network.
const PUBLIC: &str = "discovery.thethings.network";

/// Devices in hand at once: V2's five calls a second are used up whatever the latency of the target, and devices that wait
/// together share the reading of a page.
const IN_FLIGHT: usize = 64;

/// What the file sets itself, where V2 has other defaults.
pub(super) struct Written {
    pub clear_mode: Option<Place>,
    pub in_flight: bool,
    pub clear_gateways: Option<Place>,
}

impl Checker<'_, '_> {
    pub(super) fn ttn_v2(&mut self, raw: RawTtnV2, path: &str) -> TtnV2 {
        let insecure = raw.discovery_insecure.filter(|insecure| insecure.value).map(|insecure| insecure.at);
        let default = Address { host: PUBLIC.to_owned(), port: DISCOVERY_PORT };
        let server = self.address_at(raw.discovery_server, &join(path, "discovery-server"), DISCOVERY_PORT);
        let discovery = server.unwrap_or(default);
        let handler_at = raw.handler.as_ref().map(|handler| handler.at.clone());
        let handler = self.address_at(raw.handler, &join(path, "handler"), HANDLER_PORT);
        if let (Some(at), Some(handler)) = (&insecure, &handler_at) {
            let error =
                Diagnostic::error(at, "`discovery-insecure` means nothing when the `handler` is named");
            self.reader.report(error.also(handler, "discovery is not asked").help("take one of them out"));
        } else {
            let ca = raw.ca.as_ref().map(|ca| ca.at.clone());
            let told = "the question whom to trust crosses the network";
            self.plaintext(insecure.as_ref(), &[Some(discovery.clone())], ca.as_ref(), told);
        }
        let access_key = self.secret(raw.access_key, &join(path, "access-key"));
        TtnV2 {
            discovery,
            discovery_insecure: insecure.is_some(),
            ca: self.input(raw.ca, &join(path, "ca")),
            handler,
            access_key,
        }
    }

    /// What a V2 source asks of the rest of the file.
    pub(super) fn with_ttn_v2(
        &mut self,
        source: &Side,
        applications: &[Application],
        transform: &mut Transform,
        (rollout, clear): (&mut Rollout, &mut Clear),
        written: &Written,
    ) {
        let keyless = match source {
            Side::TtnV2(v2) => v2.access_key.is_none() && !self.reader.excused("source.ttn-v2.access-key"),
            Side::Rehearsal(embedded) if embedded.is_ttn_v2 => false,
            _ => {
                self.no_access_keys(applications);
                return;
            }
        };
        for application in applications.iter().filter(|a| keyless && a.access_key.is_none()) {
            let help = "say where it is: access-key = { env = \"NAME\" } under [source.ttn-v2], or of the application";
            let text = format!("application `{}` has no access key", application.source);
            self.error(&Place::Whole, text, "", help);
        }
        let plan = self.reader.env().get(FREQUENCY_PLAN).filter(|plan| !plan.is_empty());
        if plan.is_some() {
            transform.default_frequency_plan = plan;
        }
        if transform.default_frequency_plan.is_none() && transform.frequency_plans.is_empty() {
            let help = "V2 does not keep it: write frequency-plan = { default = \"EU_863_870_TTN\" } under [transform]";
            self.error(&Place::Whole, "`transform.frequency-plan` is missing", "", help);
        }
        match (clear.mode, &written.clear_mode) {
            (ClearMode::Mute, None) => clear.mode = ClearMode::Keys,
            (ClearMode::Mute, Some(at)) => {
                let help = "V2 cannot be muted: use `keys` (the default), `delete`, or `nothing`, with which the copies stay \
                            muted on the target";
                self.error(at, "`clear.mode` cannot be `mute` with V2 as the source", "", help);
            }
            _ => {}
        }
        if !written.in_flight {
            rollout.in_flight = IN_FLIGHT;
        }
    }

    fn no_access_keys(&mut self, applications: &[Application]) {
        for application in applications.iter().filter(|a| a.access_key.is_some()) {
            let text =
                format!("application `{}` has an `access-key`, which only V2 knows", application.source);
            self.error(&Place::Whole, text, "", "write `api-key`");
        }
    }
}
