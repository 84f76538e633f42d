//! Where a device is registered: each of the fifteen combinations of components, other clusters, external Join Servers.

use super::{
    facts::{TargetFacts, Wishes},
    finding::{Finding, Kind, Severity},
    session::Activation,
    transform::Found,
};
use crate::{map::path, model::device::Component};

/// The field of the IS record that names the host of a component (`end_device.proto`).
pub fn address_field(component: Component) -> &'static str {
    match component {
        Component::Ns => "network_server_address",
        Component::As => "application_server_address",
        Component::Js | Component::Is => "join_server_address",
    }
}

/// What is worth saying about where the records are.
pub fn findings(found: &Found, activation: Activation, facts: &TargetFacts, wishes: &Wishes) -> Vec<Finding> {
    let mut findings: Vec<_> = elsewhere(found).collect();
    findings.extend(partial(found, activation));
    findings.extend(without_ns(found));
    findings.extend(external_join_server(found, facts));
    findings.extend(stray_join_server(found));
    findings.extend(euis_differ(found));
    if activation == Activation::Otaa
        && found.records.ns.as_ref().is_some_and(|ns| wishes.abp_reset.contains(&ns.device_id()))
    {
        findings.push(
            Finding::new(Kind::NotReset, "abp-reset names it, but it joins by itself: its counters stay")
                .at(Component::Ns)
                .fix("take it out of transform.abp-reset; session = \"drop\" makes it join again"),
        );
    }
    findings
}

fn elsewhere(found: &Found) -> impl Iterator<Item = Finding> {
    found.elsewhere.iter().map(|(component, host)| {
        Finding::new(
            Kind::OtherCluster,
            format!("its {} record is on {host}, which was not asked", component.long()),
        )
        .at(*component)
        .fix(format!("add {host} as another host of the source, or move this device from there"))
    })
}

/// Registrations in some components only are normal in the field; ABP and multicast devices need no JS record.
fn partial(found: &Found, activation: Activation) -> Option<Finding> {
    let js_wanted = matches!(activation, Activation::Otaa | Activation::Unknown);
    let missing: Vec<_> = Component::ALL
        .into_iter()
        .filter(|c| found.records.get(*c).is_none() && found.elsewhere.iter().all(|(e, _)| e != c))
        .filter(|c| *c != Component::Js || js_wanted)
        .map(|c| c.to_string())
        .collect();
    (!missing.is_empty() && missing.len() < Component::ALL.len()).then(|| {
        Finding::new(
            Kind::Partial,
            format!("no record in {}: the copy is made without, too", missing.join(", ")),
        )
    })
}

/// Muting is a setting of the NS record; without one, the Join Server would go on answering joins.
fn without_ns(found: &Found) -> Option<Finding> {
    let records = &found.records;
    (records.js.is_some() && records.ns.is_none() && !found.external_js).then(|| {
        Finding::new(Kind::ClearWithoutMute, "a Join Server record without Network Server record cannot be muted")
            .at(Component::Js)
            .fix("allow the loss \"clear-without-mute\": its keys are then cleared first, from a snapshot read twice")
    })
}

/// An external Join Server stays. It compares who asks with the addresses in its record (`pkg/joinserver`), which only
/// its owner changes: until then the target's joins fail.
fn external_join_server(found: &Found, facts: &TargetFacts) -> Option<Finding> {
    let js = found.records.js.as_ref().filter(|_| found.external_js)?;
    let others: Vec<_> = [Component::Ns, Component::As]
        .into_iter()
        .filter(|c| {
            let address = path::string(&js.0, address_field(*c));
            !address.is_empty() && !facts.hosts.mean(*c, &address)
        })
        .map(address_field)
        .collect();
    (!others.is_empty()).then(|| {
        Finding::new(
            Kind::ExternalJoinServer,
            "its Join Server is an external one, whose record names other servers than the target's: joins would fail",
        )
        .at(Component::Js)
        .paths(others)
        .fix("have the record there name the target's servers, or allow the loss \"external-join-server\"")
    })
}

/// The IS names a Join Server that was not asked, and yet a record was found here: which one answers joins?
fn stray_join_server(found: &Found) -> Option<Finding> {
    let is = found.records.is.as_ref()?;
    let address = path::string(&is.0, address_field(Component::Js));
    let here = address.is_empty() || found.hosts.js.is_empty() || found.hosts.mean(Component::Js, &address);
    (!here && !found.external_js && found.records.js.is_some()).then(|| {
        let text = format!(
            "its IS record names the Join Server {address}, but a record was found here: it is copied"
        );
        let mut finding = Finding::new(Kind::OtherCluster, text)
            .at(Component::Js)
            .paths([address_field(Component::Js)])
            .fix("see which of the two Join Servers has the right keys");
        finding.severity = Severity::Warning;
        finding
    })
}

/// Each registry keeps EUIs of its own. A join finds the device in NS and JS by both.
fn euis_differ(found: &Found) -> Option<Finding> {
    let differ = |eui: &str| {
        let mut all = found.records.present().map(|(_, r)| path::bytes(&r.0, eui)).filter(|b| !b.is_empty());
        let first = all.next();
        all.any(|b| Some(b) != first)
    };
    let paths: Vec<_> = ["ids.join_eui", "ids.dev_eui"].into_iter().filter(|eui| differ(eui)).collect();
    (!paths.is_empty()).then(|| {
        Finding::new(Kind::EuisDiffer, "its records hold different EUIs: each is copied as it is")
            .paths(paths)
            .fix("see which is right at the source: joins need the same in NS and JS")
    })
}
