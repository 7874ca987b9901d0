//! gRPC metadata of a control stream: upstream's four keys, and what our own ends offer each other beside them.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use super::identifiers::Identifiers;
use super::ids::{AgentId, ServerId};

const AGENT_ID: HeaderName = HeaderName::from_static("agentid");
const AGENT_IDENTIFIERS: HeaderName = HeaderName::from_static("agentidentifiers");
const SERVER_ID: HeaderName = HeaderName::from_static("serverid");
const SERVER_COUNT: HeaderName = HeaderName::from_static("servercount");
/// Ours: the version of window, FIN and RESET packets that the sender understands.
const MUX: HeaderName = HeaderName::from_static("konduit-mux");

/// Ours: the version of lanes that the sender understands.
const LANE: HeaderName = HeaderName::from_static("konduit-lane");
/// Ours, from a server: what shows a lane to be of this control stream.
const LANE_TICKET: HeaderName = HeaderName::from_static("konduit-lane-ticket");

/// The version of our mux packets. In version 1 a window begins with 1 MiB, in version 2 with 64 KiB.
pub const MUX_VERSION: u32 = 2;
/// The version of everything said on a lane.
pub const LANE_VERSION: u32 = 1;

/// What an agent sends when it opens a control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentHello {
    pub agent: AgentId,
    pub identifiers: Identifiers,
    /// The service-account token, if it has one.
    pub token: Option<Secret>,
    /// The version of our mux packets that it understands, none newer than ours; 0: it understands none.
    pub mux: u32,
    /// It would open lanes.
    pub lanes: bool,
}

/// What a server answers before any packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHello {
    pub server: ServerId,
    /// How many servers there are, as far as this one knows.
    pub count: u32,
    /// The version of our mux packets that both understand; 0: there is none.
    pub mux: u32,
    /// It wants lanes, and this is the ticket to show on them.
    pub lane_ticket: Option<Secret>,
}

/// A bearer token or a lane ticket; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a stream's metadata was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    #[error("expected one {key} in the metadata, got {found}")]
    Count { key: &'static str, found: usize },
    #[error("{key} in the metadata is no text")]
    NotText { key: &'static str },
    #[error("the agent's identifiers cannot be read: {0}")]
    Identifiers(#[from] super::identifiers::IdentifiersError),
    #[error("expected a number in servercount, got {0:?}")]
    ServerCount(String),
    #[error("the service-account token has bytes that no header can carry")]
    Token,
}

impl AgentHello {
    /// # Errors
    /// As upstream: exactly one agentID, at most one agentIdentifiers, which must decode. A malformed
    /// `authorization` is left to authentication and read as "none".
    pub fn read(headers: &HeaderMap) -> Result<AgentHello, MetadataError> {
        let agent = exactly_one(headers, &AGENT_ID, "agentID")?;
        let identifiers = match headers.get_all(&AGENT_IDENTIFIERS).iter().count() {
            0 => Identifiers::default(),
            1 => Identifiers::parse(exactly_one(headers, &AGENT_IDENTIFIERS, "agentIdentifiers")?)?,
            found => return Err(MetadataError::Count { key: "agentIdentifiers", found }),
        };
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token =
            token.and_then(|value| value.strip_prefix("Bearer ")).map(|token| Secret(token.to_owned()));
        let mux = offered(headers, &MUX).min(MUX_VERSION);
        let lanes = offers(headers, &LANE, LANE_VERSION);
        Ok(AgentHello { agent: agent.into(), identifiers, token, mux, lanes })
    }

    /// # Errors
    /// A value that no header can carry.
    pub fn write(&self) -> Result<HeaderMap, MetadataError> {
        let mut headers = HeaderMap::new();
        headers.insert(AGENT_ID, text("agentID", self.agent.as_str())?);
        headers.insert(AGENT_IDENTIFIERS, text("agentIdentifiers", self.identifiers.raw())?);
        if let Some(Secret(token)) = &self.token {
            let bearer = format!("Bearer {}", token.trim());
            let mut value = HeaderValue::try_from(bearer).map_err(|_| MetadataError::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if self.mux > 0 {
            headers.insert(MUX, HeaderValue::from(self.mux));
        }
        if self.lanes {
            headers.insert(LANE, HeaderValue::from(LANE_VERSION));
        }
        Ok(headers)
    }
}

impl ServerHello {
    /// # Errors
    /// Exactly one serverID and one servercount, the latter a number.
    pub fn read(headers: &HeaderMap) -> Result<ServerHello, MetadataError> {
        let server = exactly_one(headers, &SERVER_ID, "serverID")?;
        let count = exactly_one(headers, &SERVER_COUNT, "serverCount")?;
        let count: i64 = count.parse().map_err(|_| MetadataError::ServerCount(count.to_owned()))?;
        let count = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
        let ticket = headers.get(&LANE_TICKET).filter(|_| offers(headers, &LANE, LANE_VERSION));
        let lane_ticket = ticket.and_then(|ticket| Some(Secret(ticket.to_str().ok()?.to_owned())));
        let mux = offered(headers, &MUX).min(MUX_VERSION);
        Ok(ServerHello { server: server.into(), count, mux, lane_ticket })
    }

    /// # Errors
    /// A server id that no header can carry.
    pub fn write(&self) -> Result<HeaderMap, MetadataError> {
        let mut headers = HeaderMap::new();
        headers.insert(SERVER_ID, text("serverID", self.server.as_str())?);
        headers.insert(SERVER_COUNT, HeaderValue::from(self.count));
        if self.mux > 0 {
            headers.insert(MUX, HeaderValue::from(self.mux));
        }
        if let Some(Secret(ticket)) = &self.lane_ticket {
            let mut value = text("konduit-lane-ticket", ticket)?;
            value.set_sensitive(true);
            headers.insert(LANE, HeaderValue::from(LANE_VERSION));
            headers.insert(LANE_TICKET, value);
        }
        Ok(headers)
    }
}

/// Whether an id can travel: headers carry no control characters.
pub fn is_carried(id: &str) -> bool {
    HeaderValue::from_str(id).is_ok()
}

fn offers(headers: &HeaderMap, name: &HeaderName, version: u32) -> bool {
    offered(headers, name) >= version
}

/// The version of that name; 0 where there is none that can be read.
fn offered(headers: &HeaderMap, name: &HeaderName) -> u32 {
    headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

fn exactly_one<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    key: &'static str,
) -> Result<&'a str, MetadataError> {
    let found = headers.get_all(name).iter().count();
    match headers.get(name) {
        Some(value) if found == 1 => {
            str::from_utf8(value.as_bytes()).map_err(|_| MetadataError::NotText { key })
        }
        _ => Err(MetadataError::Count { key, found }),
    }
}

fn text(key: &'static str, value: &str) -> Result<HeaderValue, MetadataError> {
    HeaderValue::from_str(value).map_err(|_| MetadataError::NotText { key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> AgentHello {
        AgentHello {
            agent: "node-1".into(),
            identifiers: Identifiers::parse("ipv4=1.2.3.4&host=a%20b").unwrap(),
            token: Some(Secret("abc".into())),
            mux: MUX_VERSION,
            lanes: true,
        }
    }

    #[test]
    fn hellos_survive_the_wire() {
        assert_eq!(AgentHello::read(&hello().write().unwrap()), Ok(hello()));
        let server =
            ServerHello { server: "s".into(), count: 3, mux: 0, lane_ticket: Some(Secret("00ff".into())) };
        assert_eq!(ServerHello::read(&server.write().unwrap()), Ok(server));
    }

    #[test]
    fn an_empty_agent_id_is_accepted_a_missing_or_doubled_one_is_not() {
        let mut headers = HeaderMap::new();
        assert_eq!(AgentHello::read(&headers), Err(MetadataError::Count { key: "agentID", found: 0 }));
        headers.insert("agentid", HeaderValue::from_static(""));
        assert_eq!(AgentHello::read(&headers).unwrap().agent.as_str(), "");
        headers.append("agentid", HeaderValue::from_static("x"));
        assert_eq!(AgentHello::read(&headers), Err(MetadataError::Count { key: "agentID", found: 2 }));
    }

    /// What is newer than we are speaks our version as well; what offers nothing that we know gets neither.
    #[test]
    fn newer_versions_are_met_and_others_are_not() {
        for (version, mux, lanes) in [
            ("1", 1, true),
            ("2", 2, true),
            ("17", 2, true),
            ("0", 0, false),
            ("x", 0, false),
            ("", 0, false),
        ] {
            let mut headers = hello().write().unwrap();
            headers.insert(MUX, HeaderValue::from_static(version));
            headers.insert(LANE, HeaderValue::from_static(version));
            let read = AgentHello::read(&headers).unwrap();
            assert_eq!((read.mux, read.lanes), (mux, lanes), "{version:?}");
        }
    }

    #[test]
    fn a_newline_at_the_end_of_the_token_file_does_no_harm() {
        let hello = AgentHello { token: Some(Secret("abc\n".into())), ..hello() };
        let read = AgentHello::read(&hello.write().unwrap()).unwrap();
        assert_eq!(read.token, Some(Secret("abc".into())));
    }

    #[test]
    fn a_token_is_never_printed() {
        assert!(!format!("{:?}", hello()).contains("abc"));
    }
}
