//! What becomes of the stored mappings when a document is imported: a function of the two.
//!
//! A row is the mapping with its domain, else the one with its id (then it is given another domain), else a new one. So
//! importing the same document twice changes nothing, and replacing a list keeps the ids, and with them the history, of
//! what stays.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use shared::hostname::Hostname;
use shared::mapping::{Mapping, MappingId};

use super::field;
use crate::admin::mappings::{Change, Kind, Surroundings};
use crate::admin::problem::Fault;
use crate::store::{MAX_MAPPINGS, Stored};
use crate::timestamp;

/// What happens to mappings that the document does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They stay; and so do fields that a row does not name.
    Merge,
    /// They go; and fields that a row does not name get their defaults.
    Replace,
}

impl Mode {
    pub(super) fn word(self) -> &'static str {
        match self {
            Mode::Merge => "merge",
            Mode::Replace => "replace",
        }
    }
}

/// A document to be imported.
pub(super) struct Planner {
    pub(super) mode: Mode,
    pub(super) rows: Vec<Value>,
    /// It is a bare list, as the earlier program's API answers.
    pub(super) list_only: bool,
    /// The Agent's identity.
    pub(super) agent: String,
    pub(super) now: OffsetDateTime,
    pub(super) surroundings: Surroundings,
}

/// What is to be done, and what is wrong; if anything is, nothing is done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) mode: Mode,
    pub(super) added: Vec<Mapping>,
    /// Before and after.
    pub(super) changed: Vec<(Stored, Mapping)>,
    pub(super) removed: Vec<Stored>,
    pub(super) unchanged: usize,
    pub(super) faults: Vec<RowFault>,
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowFault {
    /// From 1.
    pub(super) row: usize,
    /// As the row spells it, if it does.
    pub(super) domain: Option<String>,
    pub(super) field: String,
    pub(super) message: String,
}

/// A row, as far as it must be read to find its mapping.
struct Seen<'r> {
    number: usize,
    body: &'r Map<String, Value>,
    domain: Option<Hostname>,
    id: Option<MappingId>,
    /// Its place among the stored ones.
    stored: Option<usize>,
}

impl Planner {
    pub(super) fn plan(&self, existing: Vec<Stored>) -> Plan {
        let mut plan = Plan {
            mode: self.mode,
            added: Vec::new(),
            changed: Vec::new(),
            removed: Vec::new(),
            unchanged: 0,
            faults: Vec::new(),
        };
        let mut rows = self.read(&mut plan.faults);
        let mut claimed = find(&mut rows, &existing);
        let mut ids: HashSet<MappingId> = existing.iter().map(Stored::id).collect();
        for row in &rows {
            let stored = row.stored.map(|index| &existing[index]);
            let id = stored.map_or_else(|| self.new_id(row, &ids), Stored::id);
            match self.mapping(row, id, stored) {
                Err(faults) => {
                    let faults = faults.into_iter().map(|(field, message)| row.fault(&field, message));
                    plan.faults.extend(faults);
                }
                Ok(mapping) => match stored {
                    None => {
                        ids.insert(id);
                        plan.added.push(mapping);
                    }
                    Some(Stored::Mapping(before)) if same(before, &mapping) => plan.unchanged += 1,
                    Some(before) => plan.changed.push((before.clone(), mapping)),
                },
            }
        }
        // The earlier program could keep two spellings of one domain; only one of them can be meant.
        if self.mode == Mode::Merge {
            let left = existing.iter().enumerate().filter(|(index, _)| !claimed.contains(index));
            let left: HashSet<String> = left.map(|(_, row)| domain_of(row)).collect();
            for row in &rows {
                if row.domain.as_ref().is_some_and(|domain| left.contains(domain.as_str())) {
                    let text = "has a second mapping here, which must be deleted first";
                    plan.faults.push(row.fault("externalDomain", text.into()));
                }
            }
        }
        let places = if self.mode == Mode::Merge { existing.len() } else { claimed.len() };
        let room = (MAX_MAPPINGS as usize).saturating_sub(places);
        if let Some(row) = rows.iter().filter(|row| row.stored.is_none()).nth(room) {
            let text = format!("is one too many: there can be {MAX_MAPPINGS} mappings");
            plan.faults.push(row.fault("externalDomain", text));
        }
        if self.mode == Mode::Replace {
            let rest = existing.into_iter().enumerate().filter(|(index, _)| !claimed.remove(index));
            plan.removed = rest.map(|(_, row)| row).collect();
        }
        plan.faults.sort_by_key(|fault| fault.row);
        plan
    }

    /// The rows that are objects, with their faults in relation to each other.
    fn read(&self, faults: &mut Vec<RowFault>) -> Vec<Seen<'_>> {
        let mut domains: HashMap<Hostname, usize> = HashMap::new();
        let mut ids: HashMap<MappingId, usize> = HashMap::new();
        let mut rows = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            let number = index + 1;
            let Value::Object(body) = row else {
                let message = "must be an object with the fields of a mapping".into();
                faults.push(RowFault { row: number, domain: None, field: String::new(), message });
                continue;
            };
            let text = |name| field(body, name).and_then(Value::as_str);
            let mut seen = Seen {
                number,
                body,
                domain: text("externalDomain").and_then(|domain| Hostname::parse(domain).ok()),
                id: None,
                stored: None,
            };
            match field(body, "id") {
                None | Some(Value::Null) => {}
                Some(value) => match value.as_str().map(str::parse) {
                    Some(Ok(id)) => seen.id = Some(id),
                    Some(Err(fault)) => faults.push(seen.fault("id", format!("is {fault}"))),
                    None => faults.push(seen.fault("id", "must be a string".into())),
                },
            }
            if let Some(domain) = &seen.domain
                && let Some(first) = first_with(&mut domains, domain.clone(), number)
            {
                faults.push(seen.fault("externalDomain", format!("is that of row {first}, too")));
            }
            if let Some(id) = seen.id
                && let Some(first) = first_with(&mut ids, id, number)
            {
                faults.push(seen.fault("id", format!("is that of row {first}, too")));
            }
            rows.push(seen);
        }
        rows
    }

    /// The row's own id, so that a mapping is the same on a new machine; else one made from the domain, so that a dry
    /// run and the real one agree.
    fn new_id(&self, row: &Seen<'_>, taken: &HashSet<MappingId>) -> MappingId {
        if let Some(id) = row.id.filter(|id| !taken.contains(id)) {
            return id;
        }
        let domain = row.domain.as_ref().map_or("", Hostname::as_str);
        for attempt in 0_u32.. {
            let hash = Sha256::digest(format!("{}\n{domain}\n{attempt}", self.agent));
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&hash[..16]);
            let id = MappingId::from_random(bytes);
            if !taken.contains(&id) {
                return id;
            }
        }
        unreachable!("there are more ids than mappings")
    }

    fn mapping(&self, row: &Seen<'_>, id: MappingId, stored: Option<&Stored>) -> Result<Mapping, Vec<Fault>> {
        let mut body = row.body.clone();
        let mut faults = Vec::new();
        let mut date = |name: &str| match field(&body, name) {
            None | Some(Value::Null) => None,
            Some(value) => {
                let date = value.as_str().and_then(timestamp::from_api);
                if date.is_none() {
                    faults.push((name.to_owned(), "must be a date like 2026-01-31T12:00:00Z".to_owned()));
                }
                date
            }
        };
        let (created, updated) = (date("createdAt"), date("updatedAt"));
        let kind = match (stored, self.mode) {
            (None, _) => Kind::Create,
            (Some(_), Mode::Merge) => Kind::Merge,
            (Some(_), Mode::Replace) => Kind::Replace,
        };
        if stored.is_none() && self.list_only && field(&body, "hostHeader").is_none() {
            // The earlier program knows no such thing and always sent the upstream's own name.
            body.insert("hostHeader".into(), "target".into());
        }
        let change = Change::new(id, kind, body, self.now, self.surroundings.clone());
        match change.apply(stored) {
            Ok(mut mapping) if faults.is_empty() => {
                if stored.is_none() {
                    mapping.created_at = created.unwrap_or(self.now);
                    mapping.updated_at = updated.unwrap_or(mapping.created_at);
                }
                Ok(mapping)
            }
            Ok(_) => Err(faults),
            Err(more) => {
                faults.extend(more);
                Err(faults)
            }
        }
    }
}

impl Seen<'_> {
    fn fault(&self, name: &str, message: String) -> RowFault {
        let domain = field(self.body, "externalDomain").and_then(Value::as_str).map(str::to_owned);
        RowFault { row: self.number, domain, field: name.to_owned(), message }
    }
}

/// Finds the stored mapping of each row: by domain first, for all of them, so that an id never takes a mapping away from
/// the row that has its domain. Gives the places that were found.
fn find(rows: &mut [Seen<'_>], existing: &[Stored]) -> HashSet<usize> {
    let mut by_domain: HashMap<String, usize> = HashMap::new();
    let mut by_id: HashMap<MappingId, usize> = HashMap::new();
    for (index, row) in existing.iter().enumerate() {
        // Of two spellings of a domain, the one that is in use.
        match row {
            Stored::Mapping(_) => drop(by_domain.insert(domain_of(row), index)),
            Stored::Unreadable(_) => drop(by_domain.entry(domain_of(row)).or_insert(index)),
        }
        by_id.insert(row.id(), index);
    }
    let mut claimed = HashSet::new();
    for row in rows.iter_mut() {
        let found = row.domain.as_ref().and_then(|domain| by_domain.get(domain.as_str())).copied();
        row.stored = found.filter(|index| claimed.insert(*index));
    }
    for row in rows.iter_mut().filter(|row| row.stored.is_none()) {
        let found = row.id.and_then(|id| by_id.get(&id)).copied();
        row.stored = found.filter(|index| claimed.insert(*index));
    }
    claimed
}

/// In the form in which domains are compared.
fn domain_of(row: &Stored) -> String {
    match row {
        Stored::Mapping(mapping) => mapping.domain.as_str().to_owned(),
        Stored::Unreadable(row) => row.domain.to_lowercase(),
    }
}

/// Whether nothing but the time of the last change differs.
fn same(before: &Mapping, after: &Mapping) -> bool {
    *before == Mapping { updated_at: before.updated_at, ..after.clone() }
}

/// Notes who has this; the row that had it first, if another did.
fn first_with<K: Eq + std::hash::Hash>(seen: &mut HashMap<K, usize>, key: K, row: usize) -> Option<usize> {
    let first = *seen.entry(key).or_insert(row);
    (first != row).then_some(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::mapping::HostHeader;

    use super::*;
    use crate::store::{mapping_for_tests, unusable_row};

    fn now() -> OffsetDateTime {
        timestamp::from_api("2026-02-01T12:00:00Z").expect("a date")
    }

    fn planner(mode: Mode, rows: Value, list_only: bool) -> Planner {
        let Value::Array(rows) = rows else { panic!("a list") };
        Planner {
            mode,
            rows,
            list_only,
            agent: "an agent".into(),
            now: now(),
            surroundings: Surroundings::for_tests(),
        }
    }

    fn merge(rows: Value, existing: &[Mapping]) -> Plan {
        planner(Mode::Merge, rows, false).plan(existing.iter().cloned().map(Stored::Mapping).collect())
    }

    fn replace(rows: Value, existing: &[Mapping]) -> Plan {
        planner(Mode::Replace, rows, false).plan(existing.iter().cloned().map(Stored::Mapping).collect())
    }

    fn row(domain: &str) -> Value {
        json!({ "externalDomain": domain, "internalHost": "nas", "internalPort": 80 })
    }

    /// Numbers of what is added, changed, removed, unchanged and wrong.
    fn sums(plan: &Plan) -> [usize; 5] {
        [plan.added.len(), plan.changed.len(), plan.removed.len(), plan.unchanged, plan.faults.len()]
    }

    fn faults(plan: &Plan) -> Vec<(usize, &str, &str)> {
        plan.faults.iter().map(|f| (f.row, f.field.as_str(), f.message.as_str())).collect()
    }

    #[test]
    fn rows_are_found_by_domain_in_any_case_then_by_id_and_else_are_new() {
        let (a, b) = (mapping_for_tests("a.example"), mapping_for_tests("b.example"));
        let stored = [a.clone(), b.clone()];
        for (rows, expected) in [
            (json!([]), [0, 0, 0, 0, 0]),
            (json!([{ "externalDomain": "A.EXAMPLE" }]), [0, 0, 0, 1, 0]),
            (json!([{ "externalDomain": "a.example", "internalPort": 9 }]), [0, 1, 0, 0, 0]),
            (json!([{ "externalDomain": "new.example", "id": a.id.to_string() }]), [0, 1, 0, 0, 0]),
            (json!([row("new.example")]), [1, 0, 0, 0, 0]),
            (json!([{ "externalDomain": "new.example" }]), [0, 0, 0, 0, 2]),
            // The id would lead to `a`, but `a` has a row of its own; so this one is new.
            (
                json!([{ "externalDomain": "a.example" }, { "id": a.id.to_string(), "externalDomain": "c.example",
                "internalHost": "nas", "internalPort": 1 }]),
                [1, 0, 0, 1, 0],
            ),
            // Changed places: each domain keeps its id.
            (
                json!([{ "id": b.id.to_string(), "externalDomain": "a.example" },
                { "id": a.id.to_string(), "externalDomain": "b.example" }]),
                [0, 0, 0, 2, 0],
            ),
        ] {
            let plan = merge(rows.clone(), &stored);
            assert_eq!(sums(&plan), expected, "{rows}: {:?}", plan.faults);
            assert!(plan.added.iter().all(|added| added.id != a.id && added.id != b.id), "{rows}");
        }
        let renamed = merge(json!([{ "externalDomain": "new.example", "id": a.id.to_string() }]), &stored);
        assert_eq!((renamed.changed[0].1.id, renamed.changed[0].1.port), (a.id, a.port));
    }

    #[test]
    fn merging_keeps_and_replacing_removes_what_is_not_named() {
        let (a, b) = (mapping_for_tests("a.example"), mapping_for_tests("b.example"));
        let stored = [a.clone(), b.clone()];
        let merged = merge(json!([row("a.example")]), &stored);
        assert_eq!(sums(&merged), [0, 1, 0, 0, 0]);
        let after = &merged.changed[0].1;
        assert_eq!((after.description.clone(), after.tls, after.port), (a.description.clone(), true, 80));

        let replaced = replace(json!([row("A.example"), row("c.example")]), &stored);
        assert_eq!(sums(&replaced), [1, 1, 1, 0, 0]);
        let after = &replaced.changed[0].1;
        assert_eq!((after.id, after.created_at, after.updated_at), (a.id, a.created_at, now()));
        assert_eq!((after.description.clone(), after.tls), (None, false));
        assert_eq!(replaced.removed[0].id(), b.id);
        assert_eq!(sums(&replace(json!([]), &stored)), [0, 0, 2, 0, 0]);
    }

    #[test]
    fn every_fault_is_named_by_row_and_field() {
        let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let plan = merge(
            json!([
                row("a.example"),
                7,
                { "externalDomain": "A.example", "internalHost": "http://nas", "internalPort": 0 },
                { "id": "x", "externalDomain": "b.example", "internalHost": "nas", "internalPort": 80 },
                { "id": id, "externalDomain": "c.example", "internalHost": "nas", "internalPort": 80 },
                { "ID": id.to_uppercase(), "externalDomain": "d.example", "internalHost": "nas",
                  "internalPort": 80, "createdAt": "yesterday", "unknown": {} },
                { "externalDomain": "not a domain", "internalHost": "nas", "internalPort": 80 },
                { "externalDomain": "gateway.example", "internalHost": "localhost", "internalPort": 17201 },
                { "id": 5, "externalDomain": 5 },
            ]),
            &[],
        );
        let named: Vec<_> = plan.faults.iter().map(|fault| (fault.row, fault.field.as_str())).collect();
        assert_eq!(
            named,
            [
                (2, ""),
                (3, "externalDomain"),
                (3, "internalHost"),
                (3, "internalPort"),
                (4, "id"),
                (6, "id"),
                (6, "createdAt"),
                (7, "externalDomain"),
                (8, "externalDomain"),
                (8, "internalHost"),
                (9, "id"),
                (9, "externalDomain"),
                (9, "internalHost"),
                (9, "internalPort"),
            ]
        );
        let texts = faults(&plan);
        assert_eq!(texts[1].2, "is that of row 1, too");
        assert_eq!(texts[5].2, "is that of row 5, too");
        assert_eq!(plan.faults[1].domain.as_deref(), Some("A.example"));
        assert_eq!(plan.faults[0].domain, None);
    }

    #[test]
    fn both_spellings_and_old_lists_are_read() {
        let old = json!([{
            "id": "75295907-2f5a-45eb-a467-fcc46af4f9c6", "name": "test.local", "externalDomain": "Test.local",
            "internalHost": "192.168.1.5", "internalPort": 8080, "internalProtocol": "Https",
            "allowInvalidCertificates": true, "enabled": false,
            "createdAt": "2026-01-20T19:58:47.6824427", "updatedAt": "2026-01-20T19:58:47",
        }]);
        let plan = planner(Mode::Merge, old.clone(), true).plan(Vec::new());
        assert_eq!(sums(&plan), [1, 0, 0, 0, 0], "{:?}", plan.faults);
        let added = &plan.added[0];
        assert_eq!(added.id.to_string(), "75295907-2f5a-45eb-a467-fcc46af4f9c6");
        assert_eq!((added.domain.as_str(), added.tls, added.enabled), ("test.local", true, false));
        assert_eq!((added.description.as_deref(), &added.host_header), (None, &HostHeader::Target));
        assert_eq!(timestamp::database_form(added.created_at), "2026-01-20 19:58:47.6824427");
        assert_eq!(timestamp::database_form(added.updated_at), "2026-01-20 19:58:47");
        let again = planner(Mode::Replace, old, true).plan(vec![Stored::Mapping(added.clone())]);
        assert_eq!(sums(&again), [0, 0, 0, 1, 0], "twice changes nothing");

        let other = json!([{ "EXTERNALDOMAIN": "b.example", "internalHost": "nas", "internalPort": "443",
            "internalUseTls": true, "allowSelfSignedCerts": true, "isEnabled": true, "description": "b" }]);
        let added = &merge(other, &[]).added[0];
        assert_eq!((added.port, added.tls, added.description.as_deref()), (443, true, Some("b")));
        assert_eq!((&added.host_header, added.created_at), (&HostHeader::Preserve, now()));
    }

    #[test]
    fn new_ids_are_the_same_each_time_and_never_taken() {
        let first = merge(json!([row("a.example"), row("b.example")]), &[]);
        let second = merge(json!([row("a.example"), row("b.example")]), &[]);
        assert_eq!(first.added, second.added);
        assert_ne!(first.added[0].id, first.added[1].id);
        // The mapping that once had this domain has another now.
        let moved = Mapping { id: first.added[0].id, ..mapping_for_tests("moved.example") };
        let third = merge(json!([row("a.example")]), &[moved]);
        assert_ne!(third.added[0].id, first.added[0].id);
    }

    #[test]
    fn there_can_be_five_thousand_and_no_more() {
        let many = |count: usize| Value::Array((0..count).map(|n| row(&format!("m{n}.example"))).collect());
        let all = replace(many(5_000), &[mapping_for_tests("old.example")]);
        assert_eq!(sums(&all), [5_000, 0, 1, 0, 0]);
        let over = merge(many(5_000), &[mapping_for_tests("old.example")]);
        assert_eq!(faults(&over).iter().map(|fault| fault.0).collect::<Vec<_>>(), [5_000]);
        assert_eq!(faults(&merge(many(5_001), &[])).len(), 1);
        let again = merge(many(5_000), &all.added);
        assert_eq!(sums(&again), [0, 0, 0, 5_000, 0]);
    }

    #[test]
    fn rows_of_the_earlier_program_that_cannot_be_used_are_mended_or_in_the_way() {
        let plan = planner(Mode::Merge, json!([row("old.example")]), false)
            .plan(vec![unusable_row("Old.Example", 1)]);
        assert_eq!(sums(&plan), [0, 1, 0, 0, 0]);
        assert_eq!(plan.changed[0].1.id, MappingId::from_bytes([1; 16]));
        let twice =
            || vec![Stored::Mapping(mapping_for_tests("old.example")), unusable_row("Old.Example", 1)];
        let plan = planner(Mode::Merge, json!([row("old.example")]), false).plan(twice());
        assert!(faults(&plan)[0].2.contains("second mapping"), "{:?}", plan.faults);
        let plan = planner(Mode::Replace, json!([row("old.example")]), false).plan(twice());
        assert_eq!(sums(&plan), [0, 1, 1, 0, 0]);
    }
}
