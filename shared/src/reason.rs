//! Why a Stream ended before its time: one table from reason to wire code, HTTP status, hop and text.
//!
//! The Frame `Reset` carries the code; the Gateway's pages and both logs read the rest from here.

use std::fmt;

/// The hop at which a request failed, as a visitor may know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// Between visitor and Gateway.
    Visitor,
    /// The Gateway itself.
    Gateway,
    /// The tunnel between Gateway and Agent.
    Tunnel,
    /// The Agent itself.
    Agent,
    /// The service behind the Agent.
    Upstream,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hop::Visitor => "visitor",
            Hop::Gateway => "gateway",
            Hop::Tunnel => "tunnel",
            Hop::Agent => "agent",
            Hop::Upstream => "upstream",
        })
    }
}

/// One row of the table.
struct Row {
    reason: Reason,
    code: u16,
    name: &'static str,
    status: u16,
    hop: Hop,
    retry_after: bool,
    text: &'static str,
}

macro_rules! reasons {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $hop:ident, $retry:literal, $text:literal; )+) => {
        /// Why a Stream ended before its time.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Reason { $( $(#[$doc])* $name, )+ }

        const TABLE: &[Row] = &[ $( Row {
            reason: Reason::$name, code: $code, name: stringify!($name), status: $status,
            hop: Hop::$hop, retry_after: $retry, text: $text,
        }, )+ ];

        impl Reason {
            /// Every reason, in the order of their codes.
            pub const ALL: &'static [Reason] = &[ $( Reason::$name, )+ ];
        }
    };
}

reasons! {
    /// The visitor closed his connection or stopped reading.
    VisitorGone = 1, 499, Visitor, false, "The visitor closed the connection.";
    /// The upstream's host answered that nothing listens on the port.
    UpstreamRefused = 2, 502, Upstream, false, "The service behind this address is not running: it refused the connection.";
    /// No route to the upstream's host, or no answer to the connection attempt.
    UpstreamUnreachable = 3, 502, Upstream, false, "The machine behind this address cannot be reached.";
    /// The upstream's name could not be resolved.
    UpstreamDns = 4, 502, Upstream, false, "The name of the machine behind this address cannot be resolved.";
    /// The TLS handshake with the upstream failed.
    UpstreamTls = 5, 502, Upstream, false, "No secure connection to the service behind this address: its certificate was not accepted.";
    /// The upstream did not answer in time.
    UpstreamTimeout = 6, 504, Upstream, false, "The service behind this address took too long to answer.";
    /// The upstream closed the connection in the middle of an answer.
    UpstreamBroke = 7, 502, Upstream, false, "The service behind this address closed the connection before its answer was complete.";
    /// The upstream answered with something that is not HTTP.
    UpstreamInvalid = 8, 502, Upstream, false, "The service behind this address sent an answer that is not valid HTTP.";
    /// The Agent does not know the Mapping (any more).
    MappingUnknown = 9, 404, Agent, false, "Nothing is published at this address any more.";
    /// The Mapping is switched off.
    MappingDisabled = 10, 503, Agent, false, "The service at this address is switched off.";
    /// The upstream's address is one that must never be reached through a tunnel.
    TargetForbidden = 11, 502, Agent, false, "The target of this address is not allowed.";
    /// A bound on Streams or memory is reached.
    TooManyStreams = 12, 503, Gateway, true, "Too many requests are under way; please try again shortly.";
    /// No byte moved for too long.
    IdleTimeout = 13, 504, Upstream, false, "Nothing was sent for too long, so the connection was closed.";
    /// A newer Session of the same Agent took over.
    AgentReplaced = 14, 502, Tunnel, true, "The tunnel was re-established during the request; please try again.";
    /// The tunnel connection carrying the Stream was lost.
    LinkLost = 15, 502, Tunnel, true, "The tunnel was interrupted during the request; please try again.";
    /// The daemon is shutting down.
    Draining = 16, 503, Tunnel, true, "The tunnel is being restarted; please try again.";
    /// One side broke the tunnel's protocol, or the Stream's handling failed.
    Protocol = 17, 502, Tunnel, false, "The tunnel could not carry this request.";
}

impl Reason {
    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// Number in a `Reset` Frame.
    pub fn code(self) -> u16 {
        self.row().code
    }

    /// The reason of a code; one that this version does not know counts as [`Reason::Protocol`], so that a newer
    /// peer may add some.
    pub fn from_code(code: u16) -> Reason {
        TABLE.iter().find(|row| row.code == code).map_or(Reason::Protocol, |row| row.reason)
    }

    /// Name in logs and in `docs/protocol.md`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// HTTP status of the page when nothing has been answered yet. 499 is never sent: it is what the log says
    /// when there is nobody left to answer.
    pub fn status(self) -> u16 {
        self.row().status
    }

    /// Where it failed.
    pub fn hop(self) -> Hop {
        self.row().hop
    }

    /// Whether trying again soon may help (`Retry-After`).
    pub fn retry_after(self) -> bool {
        self.row().retry_after
    }

    /// The sentence that a visitor reads. Names no address, port or internal name.
    pub fn text(self) -> &'static str {
        self.row().text
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_place_and_has_its_own_code() {
        assert_eq!(Reason::ALL.len(), TABLE.len());
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(TABLE[i].reason, *reason);
            assert_eq!(Reason::from_code(reason.code()), *reason);
        }
    }

    #[test]
    fn an_unknown_code_is_a_protocol_error() {
        assert_eq!(Reason::from_code(0), Reason::Protocol);
        assert_eq!(Reason::from_code(999), Reason::Protocol);
    }
}
