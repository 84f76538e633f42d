//! The two stacks.

use super::{
    super::{
        address::{Address, PLAINTEXT_PORT, TLS_PORT, is_host},
        checked::{Other, Owner, Rehearsal, Side, Stack},
        diagnostic::{Diagnostic, Place},
        raw::{RawOther, RawOwner, RawRehearsal, RawSource, RawStack, RawTarget, RawTtnV2},
        read::{At, Later, Many, join},
    },
    Checker,
};
use crate::model::ids::{DevAddr, DevAddrPrefix, NetId, is_id};

/// What a side may be: one of these.
type Stacks = (Option<At<RawStack>>, Option<At<RawTtnV2>>, Option<At<RawRehearsal>>);

/// What to write when a side is missing.
const SOURCE: &str = "write [source.tts] with an `address` and an `api-key`, [source.ttn-v2] with an `access-key`, or [source.rehearsal]";
const TARGET: &str = "write [target.tts] with an `address` and an `api-key`, or [target.rehearsal]";

/// What `insecure` means for a The Things Stack.
const KEYS_CROSS: &str = "keys cross the network";

impl Checker<'_, '_> {
    pub(super) fn source(&mut self, raw: Option<At<RawSource>>) -> Option<Side> {
        let At { value: raw, at } = self.reader.required(raw, "", "source", &Place::Whole, SOURCE)?;
        let later = [("chirpstack", raw.chirpstack), ("file", raw.file)];
        let named = |v2: &At<RawTtnV2>| v2.value.app_id.clone();
        let default = raw.tts.as_ref().and_then(|s| s.value.app_id.clone());
        self.default_application = raw.ttn_v2.as_ref().and_then(named).or(default);
        self.from_v2 = raw.ttn_v2.is_some() || raw.rehearsal.as_ref().is_some_and(|r| is_v2(&r.value));
        for owner in [
            raw.tts.as_ref().and_then(|s| s.value.owner.as_ref()),
            raw.rehearsal.as_ref().and_then(|s| s.value.owner.as_ref()),
        ]
        .into_iter()
        .flatten()
        {
            self.error(
                &owner.at,
                "`owner` belongs to the target",
                "",
                "it owns the applications that are created there",
            );
        }
        self.side("source", &at, (raw.tts, raw.ttn_v2, raw.rehearsal), later).map(|(side, _)| side)
    }

    pub(super) fn target(&mut self, raw: Option<At<RawTarget>>) -> Option<(Side, Option<Owner>)> {
        let At { value: raw, at } = self.reader.required(raw, "", "target", &Place::Whole, TARGET)?;
        if let Some(other) = raw.tts.as_ref().and_then(|tts| tts.value.other.as_ref()) {
            self.error(
                &other.at,
                "`other` belongs to the source",
                "",
                "records are only read there, never written",
            );
        }
        if let Some(id) = raw.tts.as_ref().and_then(|tts| tts.value.app_id.as_ref()) {
            self.error(&id.at, "`app-id` belongs to the source", "", "write `target` of the application");
        }
        if let Some(stack) = raw.rehearsal.as_ref().and_then(|r| r.value.stack.as_ref())
            && raw.rehearsal.as_ref().is_some_and(|r| is_v2(&r.value))
        {
            self.error(
                &stack.at,
                "V2 cannot be the target",
                "",
                "take `stack` out: The Things Stack is embedded",
            );
        }
        self.side("target", &at, (raw.tts, None, raw.rehearsal), [("file", raw.file)])
    }

    fn side<const N: usize>(
        &mut self,
        path: &str,
        at: &Place,
        (tts, ttn_v2, rehearsal): Stacks,
        later: [(&str, Option<At<Later>>); N],
    ) -> Option<(Side, Option<Owner>)> {
        let mut keys = vec![("tts", tts.as_ref().map(|v| v.at.clone()))];
        if path == "source" {
            keys.push(("ttn-v2", ttn_v2.as_ref().map(|v| v.at.clone())));
        }
        keys.push(("rehearsal", rehearsal.as_ref().map(|v| v.at.clone())));
        keys.extend(later.iter().map(|(key, value)| (*key, value.as_ref().map(|v| v.at.clone()))));
        let keys: Vec<_> = keys.iter().map(|(key, at)| (*key, at.as_ref())).collect();
        self.exactly_one(path, at, &keys);
        for (key, value) in later {
            self.later(
                value,
                &join(path, key),
                "this release moves from V2 or The Things Stack to The Things Stack",
            );
        }
        if let Some(raw) = tts {
            let path = join(path, "tts");
            let mut raw = raw;
            let owner = raw.value.owner.take();
            let owner = self.owner(owner, &join(&path, "owner"));
            return self.stack(raw, &path).map(|stack| (Side::Tts(stack), owner));
        }
        if let Some(raw) = ttn_v2 {
            let path = join(path, "ttn-v2");
            return Some((Side::TtnV2(self.ttn_v2(raw.value, &path)), None));
        }
        let mut raw = rehearsal?;
        let path = join(path, "rehearsal");
        let owner = raw.value.owner.take();
        let owner = self.owner(owner, &join(&path, "owner"));
        Some((Side::Rehearsal(self.rehearsal(raw.value, &path)), owner))
    }

    fn stack(&mut self, raw: At<RawStack>, path: &str) -> Option<Stack> {
        let At { value: raw, at } = raw;
        let insecure = raw.insecure.as_ref().is_some_and(|insecure| insecure.value);
        let has_address = raw.address.is_some();
        let components = [
            ("identity-server", raw.identity_server),
            ("network-server", raw.network_server),
            ("application-server", raw.application_server),
            ("join-server", raw.join_server),
            ("gateway-server", raw.gateway_server),
        ];
        if components.iter().any(|(_, own)| own.is_none()) {
            let help = "write the host of the deployment, such as address = \"eu1.cloud.thethings.network\"";
            self.reader.required(has_address.then_some(()), path, "address", &at, help);
        }
        let whole = self.address(raw.address, &join(path, "address"), insecure);
        let addresses: Vec<Option<Address>> =
            components
                .into_iter()
                .map(|(key, own)| {
                    if own.is_none() { whole.clone() } else { self.address(own, &join(path, key), insecure) }
                })
                .collect();
        let plain =
            raw.insecure.as_ref().filter(|insecure| insecure.value).map(|insecure| insecure.at.clone());
        self.plaintext(plain.as_ref(), &addresses, raw.ca.as_ref().map(|ca| &ca.at), KEYS_CROSS);
        let known_as = self.hosts(raw.known_as, &join(path, "known-as"));
        let ca = self.input(raw.ca, &join(path, "ca"));
        let help = "say where the key is: api-key = { env = \"NAME\" }, { file = \"PATH\" } or { command = [\"PROGRAM\"] }";
        let key = self.reader.required(raw.api_key, path, "api-key", &at, help);
        let api_key = self.secret(key, &join(path, "api-key"));
        let others =
            raw.other.map_or_else(Vec::new, |others| self.others(others.value, &join(path, "other")));
        let mut addresses = addresses.into_iter();
        let mut next = || addresses.next().flatten();
        Some(Stack {
            identity_server: next()?,
            network_server: next()?,
            application_server: next()?,
            join_server: next()?,
            gateway_server: next()?,
            known_as,
            api_key: api_key?,
            ca,
            insecure,
            others,
        })
    }

    fn others(&mut self, raw: Vec<At<RawOther>>, path: &str) -> Vec<Other> {
        let items = raw.into_iter().enumerate();
        items.filter_map(|(i, raw)| self.other(raw, &format!("{path}[{i}]"))).collect()
    }

    fn other(&mut self, raw: At<RawOther>, path: &str) -> Option<Other> {
        let At { value: raw, at } = raw;
        let plain = raw.insecure.filter(|insecure| insecure.value);
        let insecure = plain.is_some();
        let address = self.reader.required(raw.address, path, "address", &at, "write the host of the server");
        let address = self.address(address, &join(path, "address"), insecure);
        let addresses = [address.clone()];
        let ca = raw.ca.as_ref().map(|ca| &ca.at);
        self.plaintext(plain.as_ref().map(|p| &p.at), &addresses, ca, KEYS_CROSS);
        let known_as = self.hosts(raw.known_as, &join(path, "known-as"));
        let ca = self.input(raw.ca, &join(path, "ca"));
        let key = self.reader.required(
            raw.api_key,
            path,
            "api-key",
            &at,
            "say where the key is, as for the deployment",
        );
        let api_key = self.secret(key, &join(path, "api-key"));
        Some(Other { address: address?, known_as, api_key: api_key?, ca, insecure })
    }

    fn address(&mut self, raw: Option<At<String>>, path: &str, insecure: bool) -> Option<Address> {
        self.address_at(raw, path, if insecure { PLAINTEXT_PORT } else { TLS_PORT })
    }

    /// An address; `port` where it names none.
    pub(super) fn address_at(&mut self, raw: Option<At<String>>, path: &str, port: u16) -> Option<Address> {
        let raw = raw?;
        match Address::parse(&raw.value, port) {
            Ok(address) => Some(address),
            Err(error) => {
                let help = error.instead.map_or_else(
                    || "write `host` or `host:port`".to_owned(),
                    |instead| format!("write \"{instead}\""),
                );
                self.error(&raw.at, format!("`{path}` cannot be used"), error.problem, help);
                None
            }
        }
    }

    /// Plaintext to another machine is worth a warning; certificates without TLS are a contradiction.
    pub(super) fn plaintext(
        &mut self,
        insecure: Option<&Place>,
        addresses: &[Option<Address>],
        ca: Option<&Place>,
        told: &str,
    ) {
        let Some(at) = insecure else { return };
        if let Some(ca) = ca {
            let error = Diagnostic::error(ca, "`ca` and `insecure` contradict each other");
            self.reader.report(error.also(at, "no TLS").help("take one of them out"));
        }
        if let Some(far) = addresses.iter().flatten().find(|address| !address.is_loopback()) {
            let message = format!("{told} to {} unencrypted", far.host);
            self.reader.report(Diagnostic::warning(at, message).help("use TLS, or a tunnel to this machine"));
        }
    }

    fn hosts(&mut self, raw: Option<At<Many>>, path: &str) -> Vec<String> {
        let mut hosts = Vec::new();
        for host in raw.map(|raw| raw.value.0).unwrap_or_default() {
            if is_host(&host.value) || host.value.parse::<std::net::Ipv6Addr>().is_ok() {
                hosts.push(host.value.to_ascii_lowercase());
            } else {
                self.error(
                    &host.at,
                    format!("`{path}` holds what is no host"),
                    "a host name without scheme and port",
                    "",
                );
            }
        }
        hosts
    }

    pub(super) fn owner(&mut self, raw: Option<At<RawOwner>>, path: &str) -> Option<Owner> {
        let At { value: raw, at } = raw?;
        self.exactly_one(
            path,
            &at,
            &[
                ("user", raw.user.as_ref().map(|v| &v.at)),
                ("organization", raw.organization.as_ref().map(|v| &v.at)),
            ],
        );
        let (id, owner): (At<String>, fn(String) -> Owner) = match (raw.user, raw.organization) {
            (Some(user), _) => (user, Owner::User),
            (None, organization) => (organization?, Owner::Organization),
        };
        // A user ID may have two characters (`UserIdentifiers` in identifiers.proto).
        let short = id.value.len() == 2 && is_id(&format!("{}0", id.value));
        if !is_id(&id.value) && !short {
            let label = "a-z, 0-9 and single dashes between them, at most 36";
            self.error(&id.at, format!("`{path}` is not an ID"), label, "");
        }
        Some(owner(id.value))
    }

    fn rehearsal(&mut self, raw: RawRehearsal, path: &str) -> Rehearsal {
        let prefixes = raw.dev_addr_prefixes.map(|raw| raw.value.0).unwrap_or_default();
        let mut dev_addr_prefixes: Vec<DevAddrPrefix> = prefixes
            .into_iter()
            .filter_map(|prefix| self.parsed(Some(prefix), &join(path, "dev-addr-prefixes"), prefix_of))
            .collect();
        if dev_addr_prefixes.is_empty() {
            dev_addr_prefixes.push(DevAddrPrefix { addr: DevAddr([0; 4]), bits: 7 });
        }
        let host = self.parsed(raw.host, &join(path, "host"), |text| {
            if is_host(text) { Ok(text.to_ascii_lowercase()) } else { Err("this is no host name") }
        });
        let stacks = [("tts", false), ("ttn-v2", true)];
        let stack = raw.stack.and_then(|raw| self.choice(&raw, &join(path, "stack"), &stacks));
        Rehearsal {
            is_ttn_v2: stack.unwrap_or(false),
            devices: self.input(raw.devices, &join(path, "devices")),
            application: self.input(raw.application, &join(path, "application")),
            net_id: self.parsed(raw.net_id, &join(path, "net-id"), str::parse).unwrap_or(NetId([0; 3])),
            dev_addr_prefixes,
            host: host.unwrap_or_else(|| "127.0.0.1".to_owned()),
            state: self.output(raw.state, &join(path, "state")),
            people: Default::default(),
            rate_limit: self.parsed(raw.rate_limit, &join(path, "rate-limit"), str::parse),
        }
    }
}

fn is_v2(raw: &RawRehearsal) -> bool {
    raw.stack.as_ref().is_some_and(|stack| stack.value == "ttn-v2")
}

/// A block whose address has nothing beyond its fixed bits.
fn prefix_of(text: &str) -> Result<DevAddrPrefix, String> {
    let prefix: DevAddrPrefix = text.parse().map_err(|e: crate::model::ids::IdError| e.to_string())?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.bits)).unwrap_or(0);
    let first = DevAddr((u32::from_be_bytes(prefix.addr.0) & mask).to_be_bytes());
    if first == prefix.addr {
        Ok(prefix)
    } else {
        Err(format!("the block starts at {first}/{}", prefix.bits))
    }
}
