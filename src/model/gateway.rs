//! Words about gateways that all rooms share.

/// What an API key of a gateway is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GatewayKey {
    /// To connect to the LNS.
    Lns,
    /// To be managed by CUPS.
    Cups,
}

impl GatewayKey {
    /// Every kind with its word in the configuration.
    pub const ALL: [(&'static str, Self); 2] = [("lns", Self::Lns), ("cups", Self::Cups)];

    /// The word for it in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lns => "lns",
            Self::Cups => "cups",
        }
    }

    /// The least rights with which it works (docs/servers.md, Gateways).
    pub fn rights(self) -> &'static [&'static str] {
        match self {
            Self::Lns => &["RIGHT_GATEWAY_LINK"],
            Self::Cups => {
                &["RIGHT_GATEWAY_INFO", "RIGHT_GATEWAY_SETTINGS_BASIC", "RIGHT_GATEWAY_READ_SECRETS"]
            }
        }
    }
}
