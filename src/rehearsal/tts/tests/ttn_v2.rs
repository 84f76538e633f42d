//! What the plan makes of a real V2 application is what the servers take.

use std::collections::{BTreeMap, HashMap};

use super::{super::network::default_settings, *};
use crate::{
    map::ttn_v2::{V2Device, records, tests::fleet},
    model::{
        device::Component,
        ids::{AppId, Eui64},
    },
    plan::{
        facts::{IdFrom, SessionMode, TargetFacts, Wishes},
        finding::Kind,
        identity::renames,
        transform::{self, Found, Transformed},
    },
};

const PLAN: &str = "EU_863_870_TTN";

fn wishes(session: SessionMode) -> Wishes {
    Wishes {
        copy: Default::default(),
        paused: false,
        target_app: AppId::unchecked("meters"),
        session,
        abp_reset: Default::default(),
        frequency_plans: BTreeMap::new(),
        default_frequency_plan: Some(PLAN.to_owned()),
        id_prefix: String::new(),
        id_from: IdFrom::Id,
        id_rename: true,
        versions: Default::default(),
        attributes: BTreeMap::new(),
        allowed: vec![Kind::LongDescription],
    }
}

fn facts(fleet: &[V2Device], wishes: &Wishes) -> TargetFacts {
    let phy = crate::plan::ttn_v2::versions(&fleet[0], &wishes.versions).1;
    let defaults = default_settings(PLAN, phy).expect("known");
    let ids: Vec<_> = fleet.iter().map(V2Device::dev_id).collect();
    TargetFacts {
        join_eui_prefixes: vec![(Eui64([0; 8]), 0)],
        frequency_plans: [(PLAN.to_owned(), "EU_863_870".to_owned())].into(),
        mac_defaults: HashMap::from([((PLAN.to_owned(), phy), (defaults.clone(), defaults))]),
        renames: renames(ids.iter().map(String::as_str), wishes),
        ..TargetFacts::default()
    }
}

impl Server {
    fn create(&self, done: &Transformed) -> Result<(), String> {
        let key = self.0.settings().api_key.clone();
        for component in done.copy.components() {
            let write = done.copy.get(component).expect("written");
            let (rpc, request) = match component {
                Component::Is => ("EndDeviceRegistry/Create", "CreateEndDeviceRequest"),
                Component::Js => ("JsEndDeviceRegistry/Set", "SetEndDeviceRequest"),
                Component::As => ("AsEndDeviceRegistry/Set", "SetEndDeviceRequest"),
                Component::Ns => ("NsEndDeviceRegistry/Set", "SetEndDeviceRequest"),
            };
            let mut request = proto::message(request);
            path::set(&mut request, "end_device", Value::Message(write.message.clone()));
            if component != Component::Is {
                path::set(&mut request, "field_mask", Value::Message(mask::message(&write.paths)));
            }
            let answer = self.0.call(&format!("/{}.{rpc}", proto::PACKAGE), request, Some(&key));
            answer.map_err(|failure| format!("{component} of {}: {}", done.copy.id, names(&failure)))?;
        }
        Ok(())
    }
}

#[test]
fn the_servers_take_every_device_that_the_plan_does_not_stop() {
    let fleet = fleet();
    for mode in [SessionMode::Keep, SessionMode::Drop] {
        let (server, wishes) = (Server::new(), wishes(mode));
        let facts = facts(&fleet, &wishes);
        let mut created = 0;
        for device in &fleet {
            let found =
                Found { records: records(device, &[7; 16]), v2: Some(device.clone()), ..Found::default() };
            let done = transform::device(&found, &facts, &wishes);
            if done.weightiest().is_none() {
                server.create(&done).expect("taken");
                created += 1;
            }
        }
        // All but the template and the one without keys.
        assert_eq!(created, fleet.len() - 2);
    }
}
