//! What API keys lack for what the plan does with gateways.

use super::GatewayJob;
use crate::{
    engine::run::RunError,
    plan::{
        finding::{Finding, Kind},
        gateways::GatewaysPlan,
    },
    tts::{application::Owner, gateways::Me},
};

/// What the API key of the target lacks, as far as it tells. `delete`: gateways are deleted at the source at the end.
///
/// # Errors
/// When the target cannot be asked.
pub(super) async fn of_target(job: &GatewayJob, delete: bool) -> Result<Option<Finding>, RunError> {
    let Some(owner) = &job.owner else {
        let text = "gateways need an owner on the target, and the configuration names none";
        let fix = "add owner = { user = \"…\" } or { organization = \"…\" } to the target";
        return Ok(Some(Finding::new(Kind::Rights, text).fix(fix)));
    };
    let me = job.target.me().await?;
    if me.admin {
        return Ok(None);
    }
    let Some(account) = &me.account else {
        let text =
            "the API key of the target is not that of a user or an organization: it cannot register gateways";
        return Ok(Some(Finding::new(Kind::Rights, text).fix("use an API key of the owner")));
    };
    let mut needed = vec![match owner {
        Owner::User(_) => "RIGHT_USER_GATEWAYS_CREATE",
        Owner::Organization(_) => "RIGHT_ORGANIZATION_GATEWAYS_CREATE",
    }];
    // What the key of another account may do for the owner is not in its own rights.
    needed.retain(|_| account == owner);
    needed.extend(["RIGHT_GATEWAY_INFO", "RIGHT_GATEWAY_READ_SECRETS", "RIGHT_GATEWAY_WRITE_SECRETS"]);
    if !job.wishes.api_keys.is_empty() {
        needed.push("RIGHT_GATEWAY_SETTINGS_API_KEYS");
        // Nobody can give a right that he does not have.
        needed.extend(job.wishes.api_keys.iter().flat_map(|key| key.rights()));
        needed.push("RIGHT_GATEWAY_SETTINGS_BASIC");
    }
    if delete || job.wait.is_some() {
        needed.push("RIGHT_GATEWAY_STATUS_READ");
    }
    let missing = missing(&me, needed);
    Ok((!missing.is_empty()).then(|| {
        Finding::new(Kind::Rights, "the API key of the target lacks rights to register gateways")
            .paths(missing)
            .fix("give the key of the owner these rights")
    }))
}

/// What the API key of the source lacks for what the plan changes there.
///
/// # Errors
/// When the source cannot be asked.
pub(super) async fn of_source(job: &GatewayJob, plan: &GatewaysPlan) -> Result<Option<Finding>, RunError> {
    let (redirects, deletes) = (plan.redirects(), plan.deletes() > 0);
    let Some(source) = job.source.as_ref().filter(|_| redirects || deletes) else { return Ok(None) };
    let me = source.me().await?;
    if me.admin {
        return Ok(None);
    }
    let mut needed = vec!["RIGHT_GATEWAY_INFO", "RIGHT_GATEWAY_READ_SECRETS"];
    // A rollback writes the EUI of one that was deleted.
    needed.push("RIGHT_GATEWAY_SETTINGS_BASIC");
    if redirects {
        needed.push("RIGHT_GATEWAY_WRITE_SECRETS");
    }
    if deletes {
        needed.extend(["RIGHT_GATEWAY_DELETE", "RIGHT_GATEWAY_STATUS_READ"]);
    }
    let missing = missing(&me, needed);
    Ok((!missing.is_empty()).then(|| {
        let text = "the API key of the source lacks rights to change gateways there, as gateways.cups-redirect and \
                    clear.gateways do";
        let fix = "give these rights to the key of a user or an organization, and name it in gateways.api-key";
        Finding::new(Kind::Rights, text).paths(missing).fix(fix)
    }))
}

fn missing(me: &Me, mut needed: Vec<&'static str>) -> Vec<&'static str> {
    needed.sort_unstable();
    needed.dedup();
    let all = |right: &str| {
        let kind = right.split('_').nth(1).unwrap_or_default();
        me.rights.contains("RIGHT_ALL") || me.rights.contains(&format!("RIGHT_{kind}_ALL"))
    };
    needed.retain(|right| !me.rights.contains(*right) && !all(right));
    needed
}
