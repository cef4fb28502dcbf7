//! LIST: one consistent revision, page by page, without reading the objects.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use proto::status::Status;
use serde::{Deserialize, Serialize};

use super::{Answer, Call, Content, Registry, Selection, options, store_status};
use crate::{
    cache::{Entry, Snapshot},
    http::query::Query,
    store::{Revision, StoreError},
};

/// A page.
pub struct List {
    pub revision: Revision,
    pub entries: Vec<Arc<Entry>>,
    /// Empty on the last page.
    pub continue_token: String,
    /// Absent on the last page and where a selector makes it unknown.
    pub remaining: Option<usize>,
}

/// Where the next page begins; opaque to clients.
#[derive(Debug, Deserialize, Serialize)]
struct Token {
    v: String,
    /// The revision of the first page; 0: whatever is current ("inconsistent" continuation).
    rv: Revision,
    /// The key of the last object that was given, without the kind's prefix.
    after: String,
}

/// Which state of the world is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Everything that was acknowledged before the request.
    Now,
    Any,
    NotOlderThan(Revision),
    Exactly(Revision),
}

impl Registry {
    pub async fn list(&self, call: &Call<'_>) -> Result<Answer, Status> {
        let selection = Selection::parse(call)?;
        options::check_list(call.query)?;
        let limit = match call.query.number("limit")? {
            Some(limit) if limit > 0 => limit as usize,
            _ => usize::MAX,
        };
        let (snapshot, after) = match call.query.text("continue") {
            "" => (self.snapshot(call, at(call.query)?).await?, None),
            token => self.resume(call, token).await?,
        };
        Ok(Answer::ok(Content::List(page(&snapshot, &selection, after.as_deref(), limit, call))))
    }

    pub(super) async fn snapshot(&self, call: &Call<'_>, at: At) -> Result<Snapshot, Status> {
        let kind = &call.kind.cache;
        match at {
            At::Now => drop(self.fresh().await?),
            At::Any => {}
            At::NotOlderThan(revision) => self.reach(revision).await?,
            At::Exactly(revision) => {
                self.reach(revision).await?;
                return self.0.cache.snapshot_at(kind, revision).await.map_err(too_old);
            }
        }
        Ok(kind.snapshot())
    }

    /// The state a continue token speaks of, and the key behind which to go on.
    async fn resume(
        &self,
        call: &Call<'_>,
        token: &str,
    ) -> Result<(Snapshot, Option<String>), Status> {
        check_continue(call.query)?;
        let token = Token::parse(token)?;
        let prefix = call.kind.cache.prefix();
        let after = format!("{prefix}{}", token.after);
        if token.rv == 0 {
            return Ok((self.snapshot(call, At::Now).await?, Some(after)));
        }
        match self.0.cache.snapshot_at(&call.kind.cache, token.rv).await {
            Ok(snapshot) => Ok((snapshot, Some(after))),
            Err(StoreError::Compacted { .. } | StoreError::Future { .. }) => Err(expired(&token)),
            Err(error) => Err(store_status(error)),
        }
    }
}

fn page(
    snapshot: &Snapshot,
    selection: &Selection,
    after: Option<&str>,
    limit: usize,
    call: &Call,
) -> List {
    let mut list = List {
        revision: snapshot.revision,
        entries: Vec::new(),
        continue_token: String::new(),
        remaining: None,
    };
    let mut rest = snapshot.list(&selection.namespace, after);
    if let Some(name) = selection.only()
        && (!call.kind.row.namespaced || !selection.namespace.is_empty())
    {
        let key = call.kind.cache.key(&selection.namespace, name);
        let found = snapshot.get(&key).filter(|entry| selection.matches_within(entry));
        list.entries.extend(found.cloned());
        return list;
    }
    let open = selection.is_open();
    for entry in rest.by_ref() {
        if open || selection.matches_within(entry) {
            list.entries.push(entry.clone());
            if list.entries.len() == limit {
                break;
            }
        }
    }
    if list.entries.len() < limit {
        return list;
    }
    let left = match open {
        true => rest.count(),
        false => usize::from(rest.any(|entry| selection.matches_within(entry))),
    };
    if left > 0 {
        list.remaining = open.then_some(left);
        let last = list.entries.last().map(|entry| &*entry.key).unwrap_or_default();
        let after = last.strip_prefix(call.kind.cache.prefix()).unwrap_or_default().to_string();
        list.continue_token = Token { v: "meta.k8s.io/v1".into(), rv: list.revision, after }.text();
    }
    list
}

impl Token {
    fn text(&self) -> String {
        BASE64_URL_SAFE_NO_PAD
            .encode(serde_json::to_vec(self).expect("strings and numbers always serialize"))
    }

    fn parse(text: &str) -> Result<Token, Status> {
        let token: Option<Token> = BASE64_URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match token {
            Some(token) if token.v == "meta.k8s.io/v1" => Ok(token),
            _ => Err(Status::bad_request("continue key is not valid")),
        }
    }
}

/// 410 with a token that goes on from whatever is current.
fn expired(token: &Token) -> Status {
    let fresh = Token { v: token.v.clone(), rv: 0, after: token.after.clone() };
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter, or use the continue token in this \
         response to retrieve the remainder of the results. Continuing with the provided token \
         results in an inconsistent list - objects that were created, modified, or deleted \
         between the time the first chunk was returned and now may show up in the list.",
    );
    status.metadata.continue_token = fresh.text();
    status
}

fn too_old(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { requested, oldest } => Status::expired(format!(
            "The resourceVersion for the provided list is too old: {requested} ({})",
            oldest.unwrap_or_default()
        )),
        other => store_status(other),
    }
}

/// Reads checked `resourceVersion` and `resourceVersionMatch` of a list (kubernetes.io/docs, API concepts,
/// "Semantics for get and list").
pub(super) fn at(query: &Query) -> Result<At, Status> {
    let version = query.text("resourceVersion");
    let matching = query.text("resourceVersionMatch");
    match (version, matching) {
        ("", _) => Ok(At::Now),
        ("0", _) => Ok(At::Any),
        (text, "NotOlderThan") => revision(text).map(At::NotOlderThan),
        (text, "Exact") => revision(text).map(At::Exactly),
        // Without a match a page is exact, a whole list is not: as it always was.
        (text, _) if query.number("limit")?.unwrap_or(0) > 0 => revision(text).map(At::Exactly),
        (text, _) => revision(text).map(At::NotOlderThan),
    }
}

pub(super) fn revision(text: &str) -> Result<Revision, Status> {
    text.parse().map_err(|_| {
        Status::bad_request(format!(
            "invalid resource version {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

fn check_continue(query: &Query) -> Result<(), Status> {
    if !matches!(query.text("resourceVersion"), "" | "0") {
        return Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_state_is_asked_for() {
        let cases = [
            ("", Ok(At::Now)),
            ("resourceVersion=0", Ok(At::Any)),
            ("resourceVersion=5", Ok(At::NotOlderThan(5))),
            ("resourceVersion=5&limit=3", Ok(At::Exactly(5))),
            (
                "resourceVersion=5&limit=3&resourceVersionMatch=NotOlderThan",
                Ok(At::NotOlderThan(5)),
            ),
            ("resourceVersion=5&resourceVersionMatch=Exact", Ok(At::Exactly(5))),
            ("resourceVersion=abc", Err(400)),
        ];
        for (query, expected) in cases {
            let got = at(&Query::parse(Some(query))).map_err(|status| status.code);
            assert_eq!(got, expected, "{query}");
        }
    }

    #[test]
    fn tokens_survive_and_strangers_do_not() {
        let token = Token { v: "meta.k8s.io/v1".into(), rv: 7, after: "a/b".into() };
        let read = Token::parse(&token.text()).unwrap();
        assert_eq!((read.rv, read.after.as_str()), (7, "a/b"));
        assert_eq!(Token::parse("nonsense").unwrap_err().code, 400);
    }

    proptest::proptest! {
        #[test]
        fn any_token_is_read_or_refused(token in "[A-Za-z0-9_=-]{0,60}") {
            let code = Token::parse(&token).err().map(|status| status.code);
            proptest::prop_assert!(matches!(code, None | Some(400)));
        }
    }
}
