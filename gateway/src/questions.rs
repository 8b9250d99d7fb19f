//! What Agents ask once they are greeted: to whom it is given, and how the answer gets back.

use std::sync::Arc;

use shared::control::{
    Caddy, Certificate, Failed, GetCaddy, GetCertificate, GetLogs, LandingPage, LandingPageAck, Update,
    UpdateAck, UpdateStatus,
};
use shared::hello::ToAgent;
use shared::link::Link;

use crate::desk::Job;
use crate::gateway::Core;
use crate::logs;
use crate::tunnels::Session;

/// Longest configuration of Caddy's that is passed on, bytes.
const MAX_CADDY_CONFIG: usize = 4 * 1024 * 1024;

/// A page of the log.
pub(crate) fn logs(core: &Core, link: &Arc<Link>, asked: GetLogs) {
    let (request, to) = (asked.request, Arc::clone(link));
    let job: Job = Box::new(move |core| {
        reply(&to, request, &ToAgent::Logs(logs::page(core.feed.ring(), &asked)));
    });
    let taken = core.desk.quick(job);
    busy(taken, link, request);
}

/// How the Gateway and Caddy get along.
pub(crate) fn caddy(core: &Core, link: &Arc<Link>, asked: &GetCaddy) {
    let (request, wanted, to) = (asked.request, asked.config, Arc::clone(link));
    let job: Job = Box::new(move |core| {
        let config = wanted.then(|| core.caddy.config_redacted());
        let (config, error) = match config {
            None => (None, None),
            Some(Ok(json)) if json.len() <= MAX_CADDY_CONFIG => (Some(json), None),
            Some(Ok(json)) => (None, Some(format!("it has {} bytes, too many to show", json.len()))),
            Some(Err(why)) => (None, Some(why)),
        };
        let answer = Caddy { request, report: core.caddy.report(), config, error };
        reply(&to, request, &ToAgent::Caddy(Box::new(answer)));
    });
    let taken = core.desk.slow(job);
    busy(taken, link, request);
}

/// The certificate of a host.
pub(crate) fn certificate(core: &Core, session: &Session, link: &Arc<Link>, asked: GetCertificate) {
    let request = asked.request;
    // Only its own: the Gateway is not there to look at the certificates of the world.
    if !session.publishes(&asked.host) {
        return failed(link, request, format!("{:?} is no host name of this Agent's", asked.host));
    }
    let to = Arc::clone(link);
    let job: Job = Box::new(move |core| {
        let report = core.caddy.certificate(&asked.host, asked.fresh);
        reply(&to, request, &ToAgent::Certificate(Box::new(Certificate { request, report })));
    });
    let taken = core.desk.slow(job);
    busy(taken, link, request);
}

/// An update of the Gateway.
pub(crate) fn update(core: &Core, session: &Session, link: &Arc<Link>, asked: Update) {
    let (request, to, by) = (asked.request, Arc::clone(link), session.agent_name.clone());
    let job: Job = Box::new(move |core| {
        let (status, message) = core.update.request(&asked.target_version, asked.force, &by);
        to.control(&ToAgent::UpdateAck(UpdateAck { request, status, message }).to_json());
        to.flush();
        if core.update.look() || status == UpdateStatus::Queued {
            core.update_news();
        }
    });
    let taken = core.desk.quick(job);
    busy(taken, link, request);
}

/// The page for our own host.
pub(crate) fn landing_page(core: &Core, session: &Arc<Session>, link: &Arc<Link>, asked: LandingPage) {
    let (request, session, to) = (asked.request, Arc::clone(session), Arc::clone(link));
    let job: Job = Box::new(move |core| match core.tunnels.set_page(&session, asked) {
        Ok(hash) => {
            to.control(&ToAgent::LandingPageAck(LandingPageAck { request, hash }).to_json());
            to.flush();
        }
        Err(why) => failed(&to, request, why),
    });
    let taken = core.desk.quick(job);
    busy(taken, link, request);
}

/// Sends an answer that may be long.
fn reply(link: &Arc<Link>, request: u64, answer: &ToAgent) {
    if link.later(&answer.to_json()) {
        link.flush();
    } else {
        failed(link, request, "the tunnel has no room for the answer; try again later".into());
    }
}

fn busy(taken: bool, link: &Arc<Link>, request: u64) {
    if !taken {
        failed(link, request, "the Gateway is busy with earlier questions; try again later".into());
    }
}

fn failed(link: &Arc<Link>, request: u64, error: String) {
    link.control(&ToAgent::Failed(Failed { request, error }).to_json());
    link.flush();
}
