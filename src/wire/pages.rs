//! Lists, page by page, without gaps.
//!
//! The servers page by offset: what is created or deleted while a list is read shifts the pages, and an entity can be
//! skipped or come twice, at the same total. So a list of more than one page is read until two readings agree.

use std::{collections::BTreeSet, fmt};

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value, prost::Message as _};

use super::{
    Call, Client, Error, Kind,
    error::{Failure, Outcome},
};
use crate::map::path;

/// Readings of a list before it counts as never at rest.
const READINGS: usize = 6;
/// Pages of one reading at most: beyond any registry, so that a server that always has one more does not hold us.
const MAX_PAGES: u32 = 100_000;
/// Largest page that The Things Stack answers (`limit` over 1000 is refused).
const LARGEST_PAGE: u32 = 1000;

/// A list to read.
#[derive(Clone)]
pub struct List {
    /// The method, such as `/ttn.lorawan.v3.EndDeviceRegistry/List`.
    pub method: &'static str,
    /// The request; `page`, `limit` and `field_mask` are set here where it has them.
    pub request: DynamicMessage,
    /// The field of the answer that has the items, such as `end_devices`.
    pub items: &'static str,
    /// Items on a page, 1 to 1000.
    pub page_size: u32,
    /// Paths of the field mask; none leaves the request's own.
    pub paths: Vec<String>,
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "List({} of {})", self.items, self.method)
    }
}

/// A whole list.
#[derive(Clone, Default)]
pub struct Listing {
    /// The items, in the server's order.
    pub items: Vec<DynamicMessage>,
    /// Paths that the server did not take.
    pub dropped: Vec<String>,
    /// Warnings of the server, each once.
    pub warnings: Vec<String>,
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listing({} items, without {:?})", self.items.len(), self.dropped)
    }
}

/// Why a reading does not count.
enum Unread {
    /// The list changed meanwhile.
    Moved,
    /// One page is more than a message may hold.
    TooLarge(Error),
    Failed(Error),
}

impl Client {
    /// Reads a list to its end. A list that keeps changing is an error, never a list with gaps.
    pub async fn pages(&self, list: List, call: Call) -> Result<Listing, Error> {
        let mut limit = list.page_size.clamp(1, LARGEST_PAGE);
        let mut last: Option<BTreeSet<Vec<u8>>> = None;
        let mut readings = 0;
        while readings < READINGS {
            match self.reading(&list, limit, &call).await {
                Ok((listing, pages)) => {
                    let ids = listing.items.iter().map(identity).collect();
                    if pages <= 1 || last.as_ref() == Some(&ids) {
                        return Ok(listing);
                    }
                    last = Some(ids);
                }
                Err(Unread::Moved) => last = None,
                Err(Unread::TooLarge(_)) if limit > 1 => {
                    // Halving ends at 1, so it does not count as a reading.
                    limit /= 2;
                    continue;
                }
                Err(Unread::TooLarge(error) | Unread::Failed(error)) => return Err(error),
            }
            readings += 1;
        }
        let text = format!("the list changed each of the {READINGS} times that it was read");
        let failure = Failure { outcome: Outcome::NotApplied, ..Failure::after(Kind::Protocol, text) };
        Err(Error::new(failure, self.side(), self.endpoint()).of_call(
            list.method,
            &call.about,
            call.repeat,
            0,
        ))
    }

    async fn reading(&self, list: &List, limit: u32, call: &Call) -> Result<(Listing, u32), Unread> {
        let mut listing = Listing::default();
        let mut seen = BTreeSet::new();
        let mut total = None;
        let paged = list.request.descriptor().get_field_by_name("page").is_some();
        for page in 1..=MAX_PAGES {
            let mut request = list.request.clone();
            if paged {
                path::set(&mut request, "page", Value::U32(page));
                path::set(&mut request, "limit", Value::U32(limit));
            }
            let (answer, dropped) = self.page(list, request, call).await?;
            let items = items(&answer.message, list.items);
            let read = items.len();
            if !items.iter().all(|item| seen.insert(identity(item))) {
                return Err(Unread::Moved);
            }
            listing.items.extend(items);
            listing.dropped = dropped;
            for warning in answer.warnings {
                if !listing.warnings.contains(&warning) {
                    listing.warnings.push(warning);
                }
            }
            if page > 1 && answer.total_count != total {
                return Err(Unread::Moved);
            }
            total = answer.total_count;
            let done = match total {
                _ if !paged || read == 0 => true,
                Some(total) => listing.items.len() as u64 >= total,
                None => read < limit as usize,
            };
            if done {
                let complete = !paged || total.is_none_or(|total| total == listing.items.len() as u64);
                return if complete { Ok((listing, page)) } else { Err(Unread::Moved) };
            }
        }
        Err(Unread::Moved)
    }

    async fn page(
        &self,
        list: &List,
        request: DynamicMessage,
        call: &Call,
    ) -> Result<(super::Answer, Vec<String>), Unread> {
        let result = if list.paths.is_empty() {
            self.unary(list.method, request, call.clone()).await.map(|answer| (answer, Vec::new()))
        } else {
            self.unary_masked(list.method, request, &list.paths, call.clone()).await
        };
        result.map_err(|error| match error.kind() {
            Kind::TooLarge => Unread::TooLarge(error),
            _ => Unread::Failed(error),
        })
    }
}

fn items(answer: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let list = path::get(answer, field);
    let list = list.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
    list.iter().filter_map(|v| v.as_message().cloned()).collect()
}

/// What makes an item this one: its `ids` or `id`, else all of it.
fn identity(item: &DynamicMessage) -> Vec<u8> {
    match (path::child(item, "ids"), path::string(item, "id")) {
        (Some(ids), _) => ids.encode_to_vec(),
        (None, id) if !id.is_empty() => id.into_bytes(),
        _ => item.encode_to_vec(),
    }
}
