//! Many changes to the mappings at once: all of them, or none.

use shared::mapping::{Mapping, MappingId};

use super::mappings::{add, all, remove, update};
use super::{Store, StoreError, Stored};

/// What is to be done, in this order, so that a domain is free before somebody else gets it.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) removed: Vec<MappingId>,
    pub(crate) changed: Vec<Mapping>,
    pub(crate) added: Vec<Mapping>,
}

impl Store {
    /// Does what `plan` makes of all that is stored, with nobody writing in between, in one transaction that is on the disk
    /// at the end; nothing if it gives no changes, or in a `dry` run.
    pub(crate) fn import<T: Send + 'static>(
        &self,
        dry: bool,
        plan: impl FnOnce(Vec<Stored>) -> (T, Option<Changes>) + Send + 'static,
    ) -> Result<T, StoreError> {
        if dry {
            return Ok(plan(self.stored()?).0);
        }
        self.durable(move |connection| {
            let (value, changes) = plan(all(connection)?);
            if let Some(changes) = changes {
                for id in changes.removed {
                    remove(connection, id)?;
                }
                for mapping in &changes.changed {
                    update(connection, mapping)?;
                }
                for mapping in &changes.added {
                    add(connection, mapping)?;
                }
            }
            Ok(value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::super::{Store, mapping_for_tests};
    use super::*;

    fn domains(store: &Store) -> Vec<String> {
        store.mappings().expect("mappings").iter().map(|m| m.domain.as_str().to_owned()).collect()
    }

    #[test]
    fn it_is_all_or_nothing() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let (a, b) = (mapping_for_tests("a.example"), mapping_for_tests("b.example"));
        store.insert(a.clone()).expect("saved");
        store.insert(b.clone()).expect("saved");
        let changes = |added: Vec<Mapping>| Changes {
            removed: vec![a.id],
            // Takes the domain that has just become free.
            changed: vec![Mapping { domain: a.domain.clone(), ..b.clone() }],
            added,
        };
        let seen = store.import(true, {
            let changes = changes(vec![mapping_for_tests("c.example")]);
            move |rows| (rows.len(), Some(changes))
        });
        assert_eq!(seen.expect("asked"), 2);
        assert_eq!(domains(&store), ["a.example", "b.example"], "a dry run");

        let twice = changes(vec![mapping_for_tests("c.example"), mapping_for_tests("c.example")]);
        store.import(false, move |_| ((), Some(twice))).expect_err("a domain twice");
        assert_eq!(store.mappings().expect("mappings"), [a.clone(), b.clone()], "nothing has changed");

        let good = changes(vec![mapping_for_tests("c.example")]);
        store.import(false, move |_| ((), Some(good))).expect("imported");
        assert_eq!(domains(&store), ["a.example", "c.example"]);
        assert_eq!(store.mappings().expect("mappings")[0].id, b.id);
    }

    #[test]
    fn five_thousand_are_imported_and_changed_in_a_moment() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let all: Vec<_> = (0..5_000).map(|n| mapping_for_tests(&format!("m{n}.example"))).collect();
        let added = all.clone();
        let changes = Changes { removed: Vec::new(), changed: Vec::new(), added };
        store.import(false, move |_| ((), Some(changes))).expect("imported");
        let changed = all.iter().map(|mapping| Mapping { port: 9, ..mapping.clone() }).collect();
        let removed = Vec::new();
        store
            .import(false, move |_| ((), Some(Changes { removed, changed, added: Vec::new() })))
            .expect("imported");
        let stored = store.mappings().expect("mappings");
        assert!(stored.len() == 5_000 && stored.iter().all(|mapping| mapping.port == 9));
        let removed = all.iter().map(|mapping| mapping.id).collect();
        let changes = Changes { removed, changed: Vec::new(), added: Vec::new() };
        store.import(false, move |_| ((), Some(changes))).expect("imported");
        assert!(store.stored().expect("rows").is_empty());
    }
}
