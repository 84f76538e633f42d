//! What a deployment says of itself: address blocks, JoinEUI prefixes, frequency plans, PHY versions, MAC defaults.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_reflect::{DynamicMessage, Value};

use super::Stack;
use crate::{
    map::{owner, path},
    model::{
        device::Component,
        ids::{AppId, DevAddrPrefix, Eui64},
    },
    plan::facts::TargetFacts,
    proto,
    wire::{About, Call, Error, Kind},
};

impl Stack {
    async fn ask(&self, client: &crate::wire::Client, method: &'static str) -> Result<DynamicMessage, Error> {
        let request = proto::message("google.protobuf.Empty");
        Ok(client.unary(method, request, Call::safe(About::nothing())).await?.message)
    }

    /// Everything that planning asks of a deployment but MAC defaults, which depend on the devices.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn facts(&self, app: &AppId) -> Result<TargetFacts, Error> {
        let mut facts = TargetFacts {
            hosts: self.hosts.clone(),
            dev_addr_prefixes: self.dev_addr_prefixes().await?,
            join_eui_prefixes: self.join_eui_prefixes().await?,
            frequency_plans: self.frequency_plans().await?,
            phy_versions: self.phy_versions().await?,
            ..TargetFacts::default()
        };
        for component in Component::ALL {
            let refused = self.refused_paths(component, app, &owner::writable(component)).await?;
            if !refused.is_empty() {
                facts.refused_paths.insert(component, refused);
            }
        }
        Ok(facts)
    }

    /// `Ns.GetDeviceAddressPrefixes`.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn dev_addr_prefixes(&self) -> Result<Vec<DevAddrPrefix>, Error> {
        let answer = self.ask(&self.ns, "/ttn.lorawan.v3.Ns/GetDeviceAddressPrefixes").await?;
        Ok(list(&answer, "dev_addr_prefixes")
            .iter()
            .filter_map(|v| DevAddrPrefix::from_bytes(v.as_bytes()?))
            .collect())
    }

    /// `Js.GetJoinEUIPrefixes`: EUI and number of leading bits.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn join_eui_prefixes(&self) -> Result<Vec<(Eui64, u32)>, Error> {
        let answer = self.ask(&self.js, "/ttn.lorawan.v3.Js/GetJoinEUIPrefixes").await?;
        Ok(list(&answer, "prefixes")
            .iter()
            .filter_map(Value::as_message)
            .filter_map(|m| {
                let eui = Eui64::from_bytes(&path::bytes(m, "join_eui")).unwrap_or(Eui64([0; 8]));
                Some((eui, u32::try_from(path::number(m, "length")).ok()?))
            })
            .collect())
    }

    /// `Configuration.ListFrequencyPlans`: plan → band.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn frequency_plans(&self) -> Result<BTreeMap<String, String>, Error> {
        let request = proto::message("ListFrequencyPlansRequest");
        let method = "/ttn.lorawan.v3.Configuration/ListFrequencyPlans";
        let answer = self.ns.unary(method, request, Call::safe(About::nothing())).await?.message;
        Ok(list(&answer, "frequency_plans")
            .iter()
            .filter_map(Value::as_message)
            .map(|m| (path::string(m, "id"), path::string(m, "band_id")))
            .collect())
    }

    /// `Configuration.GetPhyVersions`: band → numbers of the enum `PHYVersion`.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn phy_versions(&self) -> Result<HashMap<String, BTreeSet<i32>>, Error> {
        let request = proto::message("GetPhyVersionsRequest");
        let method = "/ttn.lorawan.v3.Configuration/GetPhyVersions";
        let answer = self.ns.unary(method, request, Call::safe(About::nothing())).await?.message;
        Ok(list(&answer, "version_info")
            .iter()
            .filter_map(Value::as_message)
            .map(|m| {
                let versions = list(m, "phy_versions").iter().filter_map(Value::as_enum_number).collect();
                (path::string(m, "band_id"), versions)
            })
            .collect())
    }

    /// `Ns.GetDefaultMACSettings` of a plan and PHY version; `None` when the deployment does not have them.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn default_mac_settings(&self, plan: &str, phy: i32) -> Result<Option<DynamicMessage>, Error> {
        let mut request = proto::message("GetDefaultMACSettingsRequest");
        path::set(&mut request, "frequency_plan_id", Value::String(plan.to_owned()));
        path::set(&mut request, "lorawan_phy_version", Value::EnumNumber(phy));
        let method = "/ttn.lorawan.v3.Ns/GetDefaultMACSettings";
        match self.ns.unary(method, request, Call::safe(About::nothing())).await {
            Ok(answer) => Ok(Some(answer.message)),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn list(message: &DynamicMessage, field: &str) -> Vec<Value> {
    path::get(message, field).and_then(|v| v.as_list().map(<[Value]>::to_vec)).unwrap_or_default()
}
