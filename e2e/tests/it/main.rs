//! End-to-end tests: both real daemons as processes, real sockets, by the promises of the project.
//!
//! | File | Question |
//! |---|---|
//! | `http` | does every kind of message arrive as it was sent? |
//! | `bodies` | do bodies stream, complete or visibly incomplete? |
//! | `streaming` | do slow and silent answers arrive when they are sent? |
//! | `upgrade` | WebSocket and other protocols |
//! | `forwarding` | hosts, hop-by-hop fields, who the visitor is |
//! | `smuggling` | is whatever could be read in two ways refused? |
//! | `devices` | are services that serve few connections at once served to all visitors? |
//! | `doctor` | the command that walks the way, on ways that are broken at each hop |
//! | `errors` | what a visitor sees when something is down |
//! | `tls` | certificates of upstreams and Gateways |
//! | `pooled` | does what one visitor did on a service's connection stay away from the next? |
//! | `tls_ends` | is the end of an answer over TLS seen, whoever's TLS it is? |
//! | `original` | the earlier program's database under a real Agent |
//! | `history` | what the Agent remembers of requests and connections, and backups of it |
//! | `api` | the Operator's API and what follows from it |
//! | `cli` | sub-commands of the Agent, beside a running one and without |
//! | `admin_port` | what strangers at the admin port cost the Agent |
//! | `config` | settings, exit statuses |
//! | `caddy` | are Caddy's routes kept as they should be, and never written without need? |
//! | `caddy_visitors` | does everything arrive through a real Caddy as well? |
//! | `changes` | is what the Operator changes in force soon, whatever the tunnel is doing? |
//! | `control` | log, updates, older peers |
//! | `landing` | the page on the Gateway's own host |
//! | `trying` | do the endpoints for trying the tunnel tell the truth? |
//! | `greeting`, `frames` | the tunnel's protocol, against peers that are played by hand |
//! | `links` | dead, frozen, cut and slow links |
//! | `places` | who gets in when strangers take every place? |
//! | `robustness` | bounds, overload, signals, `kill -9` |
//! | `restarts` | what visitors see while a daemon is started again |
//! | `probe` | asking a target before it is saved, finding services |
//! | `service` | readiness, watchdog and sockets of a service manager |
//! | `description` | does the API do what it says of itself? |
//! | `metrics` | what both daemons tell Prometheus |
//! | `many` | several Agents, several Gateways |
//!
//! `http`, `bodies`, `streaming` and `upgrade` also pass with `OCTOPORTY_E2E_DIRECT=1`, which leaves the daemons out
//! and so tests the tests.

mod admin_port;
mod api;
mod bodies;
mod caddy;
mod caddy_visitors;
mod changes;
mod cli;
mod config;
mod control;
mod description;
mod devices;
mod doctor;
mod errors;
mod forwarding;
mod frames;
mod greeting;
mod history;
mod http;
mod landing;
mod links;
mod many;
mod metrics;
mod original;
mod places;
mod pooled;
mod probe;
mod restarts;
mod robustness;
mod service;
mod smuggling;
mod streaming;
mod tls;
mod tls_ends;
mod trying;
mod upgrade;
