//! The reference of the findings, `docs/findings.md`, from their kinds.

use std::fmt::Write as _;

use super::finding::{Kind, Severity};

const INTRODUCTION: &str = "\
# Findings

<!-- Generated from src/plan; `STACKFERRY_BLESS=1 cargo test plan::reference` writes it anew. -->

A finding is what a person must know or decide before a device is moved. `plan` shows all of them, grouped by name, with the
fields concerned and with what to do; `run` shows them again with the devices that it did not move.

| weight | sign | what follows |
|---|---|---|
| stop | `x` | the device is not moved |
| wait | `…` | the device is not moved now: it waits for something that ends by itself, and a later run takes it |
| warning | `!` | something to look at; the device is moved all the same |
| note | `·` | worth knowing; nothing is lost |

A finding about a webhook, a pub/sub, a package or the activation settings stops that one thing, and no device.

A finding with something in the last column can be allowed: when `allow-loss` under `[transform]` has its name, it is a
warning, and that is what is lost. The others cannot be allowed; they have to be set right.

";

/// The whole reference as Markdown.
pub fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    text.push_str("| name | weight | what it means | what is lost when it is allowed |\n|---|---|---|---|\n");
    for &kind in Kind::ALL {
        let (weight, meaning, loss) = (weight(kind.severity()), meaning(kind), kind.loss());
        let _ = writeln!(text, "| `{kind}` | {weight} | {meaning} | {loss} |");
    }
    text
}

fn weight(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Wait => "wait",
        Severity::Stop => "stop",
    }
}

/// What a kind of finding means to the person who reads it; empty for a kind without words, which a test refuses.
fn meaning(kind: Kind) -> &'static str {
    MEANINGS.iter().find(|(of, _)| *of == kind).map_or("", |(_, words)| words)
}

/// In the order of [`Kind::ALL`].
const MEANINGS: &[(Kind, &str)] = {
    use Kind as K;
    &[
        (
            K::Picture,
            "The device has a picture. The record holds its address in the source's own store, not the picture.",
        ),
        (
            K::QueuedDownlinks,
            "Downlinks wait at the source for the device's next uplink. No record can be written with its queue, and what it holds is \
             encrypted for one counter of one session (docs/adr/0006). They stay in the queue of the muted source until that is \
             cleared: note them before, and queue them on the target afterwards.",
        ),
        (
            K::PendingSession,
            "The device has joined, the join-accept was sent, and no uplink has confirmed the new session yet. After its next \
             uplink it can be moved.",
        ),
        (
            K::UnknownFields,
            "The source is newer and answered with fields that this build does not know. A field mask can only write what has \
             a name.",
        ),
        (
            K::UnsupportedPaths,
            "The target is older and refuses the names of fields that hold a value at the source.",
        ),
        (
            K::ClearWithoutMute,
            "The Join Server has a record and the Network Server has none. Only the Network Server can be muted, so that the \
             keys would be live on both sides until the clear.",
        ),
        (
            K::MutedSource,
            "Downlinks were off at the source already (`mac_settings.schedule_downlinks = false`), and not by this journal. \
             Another journal, another tool or a person may be moving the device: two moves to two targets make it live twice. \
             When it is allowed, the copy has downlinks on. A rehearsal knows no journal, and so stops at what a run has begun.",
        ),
        (
            K::RootKeys,
            "The device joins over the air and its root keys cannot be read: they are in an external or claimed Join Server, \
             or in a secure element.",
        ),
        (
            K::AppSessionMissing,
            "The Network Server holds a session that the Application Server does not: without its AppSKey payloads cannot be \
             decrypted.",
        ),
        (
            K::LongDescription,
            "The Things Stack takes descriptions of 2000 characters, V2 has longer ones. When it is allowed, the rest is cut off.",
        ),
        (
            K::AttributeClash,
            "V2 takes any name for an attribute, The Things Stack only IDs: two attributes of the device get the same name.",
        ),
        (
            K::MacState,
            "V2 does not tell its MAC state, and none can be derived: the target does not tell its MAC defaults for the plan, or the \
             band has no plan of V2.",
        ),
        (
            K::FormatterTooLong,
            "The payload functions of V2, with what makes formatters of them, are longer than the 40960 bytes that the target takes.",
        ),
        (
            K::DownlinkKey,
            "A webhook has an API key for downlinks, which belongs to the source. The copy needs one of the target, and the API key of the run may not make it there.",
        ),
        (
            K::SharedClientId,
            "A pub/sub connects to an MQTT broker with a client ID. A broker keeps one connection for each: the target's would cut the source's, and the other way round. It stops the pub/sub alone.",
        ),
        (
            K::SecretUnreadable,
            "An integration or the activation settings hold a secret that the source does not tell. It stops that alone, and has to be set up by hand.",
        ),
        (
            K::UnknownPackage,
            "The target does not have the application package of an association. It would take the association, and do nothing with it.",
        ),
        (
            K::UnmappedPerson,
            "`[people]` does not say who a collaborator of the source is on the target. Nobody is made who was not named.",
        ),
        (
            K::UnsupportedProvider,
            "The target has pub/subs over this provider switched off, and would refuse it. It stops that pub/sub alone.",
        ),
        (
            K::ExternalJoinServer,
            "The device joins through an external Join Server, whose record names the source's servers: the target's joins are refused until it names the target's.",
        ),
        (
            K::Unjoinable,
            "Its root keys cannot be read and no session goes along: the copy could never be heard.",
        ),
        (
            K::NoKeys,
            "V2 has neither an AppKey nor a session of the device: nothing could be made of it that is ever heard.",
        ),
        (
            K::JoinTemplate,
            "The device has no DevEUI: V2 makes a device of it for each DevEUI that joins under its AppEUI. The Things Stack has no \
             such thing.",
        ),
        (
            K::MacVersion,
            "`mac-version` gives a device of V2 LoRaWAN 1.1, which V2 never spoke: it has no NwkKey.",
        ),
        (
            K::SameDeployment,
            "Source and target are one deployment, in which a device cannot exist twice: each is deleted at the source, from a \
             sealed snapshot, before it is created on the target. `clear.mode` must say `delete` for that.",
        ),
        (
            K::SameApplication,
            "Source and target are the same application, by whatever addresses they are reached: there is nothing to move, and \
             clearing the one would clear the other.",
        ),
        (
            K::OtherCluster,
            "The Identity Server says that a record of the device is on a host that the configuration does not name.",
        ),
        (
            K::AppKeyUnreadable,
            "A session key is given only wrapped with a key encryption key of the source, or not at all.",
        ),
        (
            K::SessionMismatch,
            "Network Server and Application Server hold different sessions. This ends with the device's next uplink, or never.",
        ),
        (K::JoinEuiNotServed, "The target's Join Server is not set up for the JoinEUI of the device."),
        (
            K::FrequencyPlan,
            "The target does not have the frequency plan of the device, or the device has none.",
        ),
        (
            K::PhyVersion,
            "The target does not have the regional parameters version of the device for its band.",
        ),
        (
            K::SessionPlanChange,
            "The session would go on under another frequency plan than the one on which the device joined.",
        ),
        (K::BadId, "The target takes no such device ID: 3 to 36 of a-z, 0-9 and single dashes."),
        (K::IdClash, "Two devices of the run would get the same ID on the target."),
        (K::IdTaken, "The target has another device, or another record, under this ID."),
        (
            K::GatewayEuiTaken,
            "The gateway's EUI is registered on the target under another ID: an EUI is there only once.",
        ),
        (
            K::EuisTaken,
            "The target has the pair of JoinEUI and DevEUI under another ID or in another application.",
        ),
        (K::InvalidField, "A value breaks a rule of the target's API."),
        (K::Refused, "The target, or the source, refused a call. What was done for the device is undone."),
        (K::NotEqual, "What was read back from the target is not what was written there."),
        (
            K::ChangedMeanwhile,
            "Somebody else changed the device at the source while it was being moved. Nothing more is cleared.",
        ),
        (
            K::LiveOnTarget,
            "The move should be undone, but the device has joined or sent on the target since. It is left there.",
        ),
        (K::NotFound, "No component of the source has a record of a device that was asked for."),
        (K::Rights, "The API key lacks rights, or the application has to be created and no owner is named."),
        (
            K::OutsidePrefixes,
            "The DevAddr of the kept session is not in the target's blocks: uplinks reach the target only through gateways \
             that are connected to it, not by roaming.",
        ),
        (
            K::DefaultsDiffer,
            "The MAC settings of the two networks differ, and the target steers a kept session to its own.",
        ),
        (K::LeftBehind, "The record holds a value that no call of the API can set: it stays at the source."),
        (
            K::EuisDiffer,
            "The components hold different EUIs for the device. Each record is copied with its own.",
        ),
        (
            K::NotReset,
            "`abp-reset` names a device that joins: its counters begin anew with its next join anyway.",
        ),
        (K::Partial, "Some components have no record of the device. The copy has none there either."),
        (
            K::SessionDropped,
            "The session stays behind and the device joins the target by itself. Until then the source receives its uplinks.",
        ),
        (
            K::MustRejoin,
            "V2 gave the device an address that is not in the target's blocks, as a private V2 does: it must join again before the \
             target hears it. Its old session stays at the source until then.",
        ),
        (
            K::SessionIncomplete,
            "V2 has a part of a session, and not both DevAddr and NwkSKey. It is none, at V2 either; the device joins again.",
        ),
        (
            K::DevEuiTwice,
            "Another device of the application has the same DevEUI under another AppEUI. The Things Stack takes both; only the one is \
             heard with whose AppEUI the device joins.",
        ),
        (
            K::CountersReset,
            "The counters start at zero on the target, as `abp-reset` asks: reset the device by hand.",
        ),
        (
            K::PendingJoin,
            "A join request came and its accept was never sent. It is not carried; the device asks again by itself.",
        ),
        (
            K::Replaced,
            "A value that belongs to the source is replaced or left out: see [what is replaced](replaced.md).",
        ),
        (
            K::Adopted,
            "The target has the record already, and it is what would be written. Of an API key: one of the same name, rights and \
             expiry is there, whose secret is not known here.",
        ),
        (K::RolledBack, "The device is back at the source, as `rollback` was asked."),
        (
            K::OthersOnTarget,
            "The application on the target has devices that are not part of this move. They are left alone.",
        ),
        (
            K::ApplicationDiffers,
            "The application, or its default payload formatters, are on the target already and differ. They stay as they are.",
        ),
        (
            K::CannotPause,
            "Pub/subs cannot be paused. With `integrations.paused` they are created once the first device is live; with `clear.integrations = \"pause\"` those of the source go on.",
        ),
        (
            K::KeyLeft,
            "An API key of the application that is not copied: it has expired, is one with which stackferry works, or is for the \
             downlinks of a webhook whose copy gets one of its own.",
        ),
        (
            K::GatewayDiffers,
            "A gateway with this ID and EUI is on the target already, and differs. It stays as it is.",
        ),
        (
            K::GatewayContact,
            "Users and organizations differ between deployments: the owner at the target takes the place of a contact that \
             `gateways.people` does not name.",
        ),
        (
            K::GatewaySecret,
            "What the source's CUPS hands to the gateway is of use at the source alone, such as its LNS API key: it is not copied. \
             With `api-keys = [\"lns\"]` the new key takes its place.",
        ),
        (
            K::CupsRedirect,
            "With `gateways.cups-redirect`: the source's CUPS is not told to send this gateway to the target, with the reason; or \
             what holds for all that it is told to send ([gateways.md](gateways.md)).",
        ),
        (
            K::GatewayDelete,
            "With `clear.gateways = \"delete\"`: a rollback restores a gateway at the source only as long as the source does so, 24 \
             hours unless its operator has set another time, and its EUI only if nobody has taken it.",
        ),
        (
            K::RadioPath,
            "Devices that keep their session are heard at the source, and by no gateway that moves: the target hears them only \
             through gateways that are connected to it, or, for addresses in its blocks, by roaming.",
        ),
        (
            K::RelayPeer,
            "A device that a relay serves names the relay, and a relay the devices that it serves. The names follow the IDs on the \
             target, but the other device is not part of the move: what the relay forwards is of use only where both are.",
        ),
        (
            K::IntegrationDiffers,
            "A webhook, pub/sub, package association, collaborator or the activation settings are on the target already with other values. They stay as they are.",
        ),
        (
            K::NotCopied,
            "A part of the application is not copied, such as webhooks: it has to be set up by hand.",
        ),
    ]
};

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    #[test]
    fn every_kind_has_its_words_in_order() {
        let told: Vec<_> = MEANINGS.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(told, Kind::ALL);
        for (kind, words) in MEANINGS {
            assert!(words.ends_with(['.', ')']) && !words.contains('|'), "{kind}: {words}");
        }
    }

    #[test]
    fn the_reference_in_docs_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/findings.md");
        if env::var_os("STACKFERRY_BLESS").is_some() {
            fs::write(&path, markdown()).expect("written");
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == markdown(),
            "docs/findings.md is not current: STACKFERRY_BLESS=1 cargo test plan::reference"
        );
    }
}
