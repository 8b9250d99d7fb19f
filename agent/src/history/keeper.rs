//! The thread that has rows and totals written some times a minute, old ones deleted, and figures told.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use shared::threads::lock;

use super::Ledger;
use crate::events::Event;
use crate::store::{Store, StoreError};

/// Many rows are not written sooner after the last time than this, which makes about 1,500 rows a second at most: what
/// an SD card and a small processor can take beside the traffic itself.
const AT_LEAST: Duration = Duration::from_secs(4);
/// How long rows wait otherwise.
const AT_MOST: Duration = Duration::from_secs(20);
/// How often what is old is looked for, and an open connection's bytes are written, when nothing else is.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);
/// How often the figures are told while somebody listens; a listener who comes in between waits for so long.
const TELL: Duration = Duration::from_secs(2);

/// The thread `history`.
pub(super) fn keep(ledger: &Arc<Ledger>, store: &Store, woken: &Receiver<()>) {
    let mut written = Instant::now();
    let mut kept = Instant::now();
    let mut told = Instant::now();
    let mut many = false;
    let mut failing = false;
    loop {
        let due = written + if many { AT_LEAST } else { AT_MOST };
        match woken.recv_deadline(due.min(told + TELL)) {
            Ok(()) => {
                many = true;
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                if let Err(e) = store.record(ledger, true) {
                    log::error!("the last requests are not in the history: {e}");
                }
                return;
            }
        }
        let now = Instant::now();
        if now >= told + TELL {
            told = now;
            let figures = lock(&ledger.pages).figures.take(now, ledger.active.load(Relaxed));
            ledger.hub.publish(Event::Traffic(figures));
        }
        if now < due {
            continue;
        }
        (written, many) = (Instant::now(), false);
        let housekeeping = kept.elapsed() >= HOUSEKEEPING;
        let result = store.record(ledger, housekeeping).and_then(|()| {
            if housekeeping {
                kept = Instant::now();
                keep_house(ledger, store)?;
            }
            Ok(())
        });
        match result {
            Ok(()) if std::mem::take(&mut failing) => log::info!("requests are kept again"),
            Ok(()) => {}
            // Once, not three times a minute.
            Err(e) if !std::mem::replace(&mut failing, true) => {
                log::error!("requests cannot be kept at the moment, only counted: {e}");
            }
            Err(e) => log::debug!("requests still cannot be kept: {e}"),
        }
    }
}

/// What is too old goes, also when nothing new comes.
pub(super) fn keep_house(ledger: &Ledger, store: &Store) -> Result<(), StoreError> {
    let tidied = store.tidy_history(ledger.limits.days);
    // To be counted again: else rows that went would count as rows that are too many.
    ledger.rows.store(u64::MAX, Relaxed);
    tidied
}
