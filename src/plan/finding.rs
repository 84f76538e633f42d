//! Findings: what a person must know or decide before a device is moved.

use std::fmt;

use crate::model::device::Component;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; nothing is lost.
    Note,
    /// Something to look at; the device is moved all the same.
    Warning,
    /// The device is not moved now: it has to wait for something that ends by itself.
    Wait,
    /// The device is not moved.
    Stop,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $severity:ident, $loss:literal;)*) => {
        /// What was found. The name is what a configuration allows and what reports group by.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $variant,)* }

        impl Kind {
            /// Every kind, in the order in which reports list them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in reports and in `allow-loss`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How much it weighs unless the configuration allows it.
            pub fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// What is lost when `allow-loss` names this kind; empty when it cannot be allowed.
            pub fn loss(self) -> &'static str {
                match self { $(Self::$variant => $loss,)* }
            }
        }
    };
}

kinds! {
    /// The source's picture is a reference to its own asset store.
    Picture = "picture", Stop, "the picture of the device";
    /// Downlinks wait in the source's queue.
    QueuedDownlinks = "queued-downlinks", Stop, "downlinks that wait in the queue of the source";
    /// Joined, the accept was sent, and no uplink followed yet.
    PendingSession = "pending-session", Wait, "the session of a join that no uplink followed yet: the device must join again";
    /// The answer holds fields that this build does not know.
    UnknownFields = "unknown-fields", Stop, "fields of a newer server that this build does not know";
    /// The target does not know a path that holds a value.
    UnsupportedPaths = "unsupported-paths", Stop, "values that the target's older version cannot store";
    /// JS record without NS record: it cannot be muted.
    ClearWithoutMute = "clear-without-mute", Stop, "the order create, verify, clear: the keys are deleted at the source first, from a snapshot that was read twice";
    /// Found muted, by somebody else than this journal.
    MutedSource = "muted-source", Stop, "the certainty that nobody else moves the device: whoever muted it at the source may make it live elsewhere too";
    /// OTAA without root keys that can be read.
    RootKeys = "root-keys", Stop, "the ability to join: the device goes on only as long as its session does";
    /// The Network Server holds a session whose AppSKey no record has.
    AppSessionMissing = "app-session-missing", Stop, "payload decryption until the next join: the Application Server of the source has no session either";

    /// A description that is longer than the target takes.
    LongDescription = "long-description", Stop, "the end of descriptions of more than 2000 characters";
    /// Two attributes of V2 get one name.
    AttributeClash = "attribute-clash", Stop, "attributes of V2 whose name on the target another attribute has";
    /// A kept session without a MAC state that could be derived.
    MacState = "mac-state", Stop, "the MAC state of kept sessions of V2: the target takes the device to be as it leaves the factory, and hears it on the default channels of the band only until it has set it up";
    /// A payload function that is longer than the target takes.
    FormatterTooLong = "formatter-too-long", Stop, "payload functions of V2 that are longer than the target takes";

    /// The API key may not make the key that a webhook's downlinks need.
    DownlinkKey = "downlink-key", Stop, "the API keys for downlinks of webhooks: they are copied without, and send no downlinks";
    /// The source and the target would have one MQTT client ID at one broker.
    SharedClientId = "shared-client-id", Stop, "steady connections of MQTT pub/subs with a client ID: source and target take them from each other as long as both are there";
    /// A secret of an integration or a gateway that the source does not tell.
    SecretUnreadable = "secret-unreadable", Stop, "secrets that the source does not tell: what needs them is copied without";
    /// A package that the target does not have.
    UnknownPackage = "unknown-package", Stop, "application packages that the target does not have: their associations do nothing";
    /// A collaborator of whom nobody has said who it is on the target.
    UnmappedPerson = "unmapped-person", Stop, "collaborators that `[people]` does not map: they are not collaborators of the copy";
    /// The target has a provider of pub/subs switched off.
    UnsupportedProvider = "unsupported-provider", Stop, "";

    /// An external Join Server stays, and its record names other servers than the target's.
    ExternalJoinServer = "external-join-server", Stop, "joins, until the external Join Server's record names the target's servers";

    /// OTAA without root keys that can be read, and no session goes along: the copy would never be heard.
    Unjoinable = "unjoinable", Stop, "";

    /// A device of V2 without AppKey and without session.
    NoKeys = "no-keys", Stop, "";
    /// A register-on-join template of V2.
    JoinTemplate = "join-template", Stop, "";
    /// A version that V2 never spoke.
    MacVersion = "mac-version", Stop, "";

    /// Source and target are the same deployment.
    SameDeployment = "same-deployment", Stop, "";
    /// Source and target are one and the same application.
    SameApplication = "same-application", Stop, "";
    /// The record is on a host that was not asked.
    OtherCluster = "other-cluster", Stop, "";
    /// The AppSKey is wrapped with a key that this side does not hold.
    AppKeyUnreadable = "app-key-unreadable", Stop, "";
    /// NS and AS hold different sessions.
    SessionMismatch = "session-mismatch", Stop, "";
    /// The target's JS does not serve the JoinEUI.
    JoinEuiNotServed = "join-eui-not-served", Stop, "";
    /// The target does not have the frequency plan.
    FrequencyPlan = "frequency-plan", Stop, "";
    /// The target does not have the PHY version for the band.
    PhyVersion = "phy-version", Stop, "";
    /// A session is kept although plan or PHY version change.
    SessionPlanChange = "session-plan-change", Stop, "";
    /// The target would refuse the ID.
    BadId = "bad-id", Stop, "";
    /// Two devices of this run get the same ID.
    IdClash = "id-clash", Stop, "";
    /// The ID exists on the target and is not ours.
    IdTaken = "id-taken", Stop, "";
    /// Another gateway of the target has the EUI.
    GatewayEuiTaken = "gateway-eui-taken", Stop, "";
    /// JoinEUI and DevEUI exist on the target under another ID.
    EuisTaken = "euis-taken", Stop, "";
    /// The target would refuse a value.
    InvalidField = "invalid-field", Stop, "";
    /// The target refused a call.
    Refused = "refused", Stop, "";
    /// What the target holds is not what was written.
    NotEqual = "not-equal", Stop, "";
    /// Somebody changed the device while it was being moved.
    ChangedMeanwhile = "changed-meanwhile", Stop, "";
    /// The device joined or sent on the target, so that an undo would lose it.
    LiveOnTarget = "live-on-target", Stop, "";
    /// Nothing of the device was found.
    NotFound = "not-found", Stop, "";
    /// The source does not run with the rights needed.
    Rights = "rights", Stop, "";

    /// DevAddr outside the target's prefixes.
    OutsidePrefixes = "outside-prefixes", Warning, "";
    /// The target's MAC defaults differ from the source's.
    DefaultsDiffer = "defaults-differ", Warning, "";
    /// A value that no call can set on the target.
    LeftBehind = "left-behind", Warning, "";
    /// The records of one device hold different EUIs.
    EuisDiffer = "euis-differ", Warning, "";
    /// `abp-reset` names a device that joins.
    NotReset = "not-reset", Warning, "";
    /// Registered in some of the components only.
    Partial = "partial-registration", Warning, "";
    /// A session is dropped: the device must join again.
    SessionDropped = "session-dropped", Note, "";
    /// A session of V2 outside the target's prefixes is dropped.
    MustRejoin = "must-rejoin", Warning, "";
    /// A session of V2 of which a part is missing.
    SessionIncomplete = "session-incomplete", Warning, "";
    /// One DevEUI under two AppEUIs.
    DevEuiTwice = "dev-eui-twice", Warning, "";
    /// Counters start at zero, as `abp-reset` asks.
    CountersReset = "counters-reset", Warning, "";
    /// A join whose accept was never sent is not carried.
    PendingJoin = "pending-join", Note, "";
    /// A value that belongs to the source is replaced or left out.
    Replaced = "replaced", Note, "";
    /// Already on the target as it should be.
    Adopted = "adopted", Note, "";
    /// Brought back to the source, as asked.
    RolledBack = "rolled-back", Note, "";
    /// Devices on the target that this move does not touch.
    OthersOnTarget = "others-on-target", Note, "";
    /// The application on the target differs.
    ApplicationDiffers = "application-differs", Warning, "";
    /// A kind of integration that cannot be paused.
    CannotPause = "cannot-pause", Warning, "";
    /// An API key of the application that stays behind.
    KeyLeft = "api-key-left", Warning, "";
    /// A gateway on the target differs.
    GatewayDiffers = "gateway-differs", Warning, "";
    /// A contact of a gateway that has no counterpart on the target.
    GatewayContact = "gateway-contact", Warning, "";
    /// What a gateway hands out at the source is of no use on the target.
    GatewaySecret = "gateway-secret", Warning, "";
    /// The source's CUPS does not send a gateway to the target, or might not.
    CupsRedirect = "cups-redirect", Warning, "";
    /// A gateway that is deleted at the source comes back only for a while.
    GatewayDelete = "gateway-delete", Warning, "";
    /// Who hears the devices whose session is kept.
    RadioPath = "radio-path", Warning, "";
    /// Relay settings name a device that does not move along.
    RelayPeer = "relay-peer", Warning, "";
    /// An integration on the target differs.
    IntegrationDiffers = "integration-differs", Warning, "";
    /// Part of the application that is not copied.
    NotCopied = "not-copied", Warning, "";
}

impl Kind {
    /// The kind with this name, when `allow-loss` may name it.
    pub fn allowable(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.name() == name && !k.loss().is_empty())
    }

    /// The kind with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One finding about a device or an application. It never holds a secret value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was found.
    pub kind: Kind,
    /// Its weight after `allow-loss`.
    pub severity: Severity,
    /// Where, when one component is concerned.
    pub component: Option<Component>,
    /// Field paths concerned, when there are any.
    pub paths: Vec<String>,
    /// What was found, in words.
    pub text: String,
    /// What to do about it; empty when nothing is to be done.
    pub fix: String,
}

impl Finding {
    /// A finding with the weight of its kind.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            severity: kind.severity(),
            component: None,
            paths: Vec::new(),
            text: text.into(),
            fix: String::new(),
        }
    }

    /// Names the component.
    #[must_use]
    pub fn at(mut self, component: Component) -> Self {
        self.component = Some(component);
        self
    }

    /// Names field paths.
    #[must_use]
    pub fn paths<S: Into<String>>(mut self, paths: impl IntoIterator<Item = S>) -> Self {
        self.paths = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// True when the device must not be moved now.
    pub fn blocks(&self) -> bool {
        self.severity >= Severity::Wait
    }

    /// Lowers the weight to a warning when its kind is among `allowed` and can be allowed at all.
    #[must_use]
    pub fn allow(mut self, allowed: &[Kind]) -> Self {
        if self.blocks() && !self.kind.loss().is_empty() && allowed.contains(&self.kind) {
            self.severity = Severity::Warning;
            self.fix = format!("allowed by allow-loss = [\"{}\"]", self.kind);
        }
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind)?;
        if let Some(component) = self.component {
            write!(f, "{component}: ")?;
        }
        f.write_str(&self.text)?;
        if !self.paths.is_empty() {
            write!(f, " ({})", self.paths.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_losses_can_be_allowed() {
        assert_eq!(Kind::allowable("picture"), Some(Kind::Picture));
        assert_eq!(Kind::allowable("id-taken"), None);
        let taken = Finding::new(Kind::IdTaken, "").allow(&[Kind::IdTaken]);
        assert!(taken.blocks());
        let picture = Finding::new(Kind::Picture, "");
        assert!(picture.blocks());
        assert!(!picture.allow(&[Kind::Picture]).blocks());
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|k| k.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
