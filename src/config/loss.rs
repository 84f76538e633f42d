//! The losses that a configuration may allow, by the names of the findings that report them.

/// Name of every finding that stops a device unless `transform.allow-loss` names it, and what is lost.
pub const LOSSES: &[(&str, &str)] = &[
    (
        "activation-settings",
        "the activation settings of the application (default KEK, home NetID) are not copied",
    ),
    ("api-keys", "the API keys of the application are not copied"),
    ("claim-authentication-code", "the claim authentication code cannot be read or stored"),
    (
        "clear-without-mute",
        "a device with a Join Server record but no Network Server record cannot be muted, so it is cleared before the target has it",
    ),
    ("collaborators", "the collaborators of the application and their rights are not copied"),
    ("contact-info", "the contact information is not copied"),
    ("label-ids", "the labels of the device are not copied: they belong to the source's tenant"),
    (
        "mac-settings-profile",
        "the MAC settings profile of the device is not copied: only the settings of the device itself are",
    ),
    (
        "muted-source",
        "downlinks were already off at the source: whether the user or an earlier attempt turned them off is unknown, and the target gets them on",
    ),
    ("packages", "the application packages and their associations are not copied"),
    (
        "pending-session",
        "a join whose accept was not answered yet is not carried: the device must join again",
    ),
    ("picture", "the picture of the device is not copied"),
    ("pubsubs", "the pub/sub integrations are not copied"),
    ("queued-downlinks", "downlinks that wait at the source are not sent by the target"),
    ("started-at", "the time at which the session started is not kept"),
    ("unknown-fields", "fields that this build does not know are not stored by the target"),
    ("unsupported-paths", "fields that the target's version does not have are not copied"),
    ("webhooks", "the webhooks of the application are not copied"),
];

/// The listed name that equals `name`.
pub fn known_loss(name: &str) -> Option<&'static str> {
    LOSSES.iter().map(|(known, _)| *known).find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_sorted_and_unique() {
        assert!(LOSSES.is_sorted_by(|a, b| a.0 < b.0));
    }
}
