//! JSON Web Tokens (RFC 7519) signed with HMAC-SHA256 (RFC 7515, RFC 7518 3.2), and the random tokens that
//! renew them.
//!
//! Pure but for the randomness. We issue every token we accept, so there is one algorithm, one issuer, one
//! audience, and no leeway: whoever issues and checks has one clock. Who may get a token is left to `login`.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use shared::mapping::MappingId;

use crate::random;

const ISSUER: &str = "Octoporty.Agent";
const AUDIENCE: &str = "Octoporty.Agent.Web";
/// The earlier program's framework names the user by this, besides `sub`.
const NAME_CLAIM: &str = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name";
/// The one user there is.
const SUBJECT: &str = "admin";
/// How long a token lives that a command on this machine makes for itself, in seconds.
const COMMAND_LIFE: i64 = 120;
/// Ours have some 500 characters; what is longer is not looked at.
const MAX_TOKEN: usize = 4096;

const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Why a token is not accepted. The bearer is told only that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenFault {
    /// No token by its form.
    Form,
    /// Another algorithm, or an extension we do not know and must not ignore (RFC 7515 4.1.11).
    Header,
    /// Not signed by us.
    Signature,
    /// From or for somebody else, or of another type.
    Claims,
    /// Over, or not yet.
    Time,
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenFault::Form => "is no token",
            TokenFault::Header => "has another algorithm or an unknown extension",
            TokenFault::Signature => "is not signed by this Agent",
            TokenFault::Claims => "is not for this Agent's API",
            TokenFault::Time => "has expired",
        })
    }
}

/// What a good token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    /// The session it was issued in, whose end is its own. `None` for one that a command made for itself: whoever
    /// does that has the secret and needs no session.
    pub(crate) session: Option<MappingId>,
    /// When it ends, in seconds since 1970.
    pub(crate) expires: i64,
}

/// A token that lets its bearer use the API until `expires`, in seconds since 1970, or until its session ends.
pub(crate) fn issue(secret: &[u8], session: MappingId, now: i64, expires: i64) -> String {
    let mut claims = claims(now, expires);
    claims["sid"] = session.to_string().into();
    sign(secret, &header(), &claims)
}

/// A token for a command that has the secret, on the machine of the Agent; for a minute or two.
pub(crate) fn issue_for_command(secret: &[u8], now: i64) -> String {
    sign(secret, &header(), &claims(now, now + COMMAND_LIFE))
}

fn header() -> Value {
    json!({ "alg": "HS256", "typ": "JWT" })
}

fn claims(now: i64, expires: i64) -> Value {
    json!({
        NAME_CLAIM: SUBJECT,
        "sub": SUBJECT,
        "jti": MappingId::from_random(random::bytes()).to_string(),
        "token_type": "access",
        "iat": now,
        "exp": expires,
        "iss": ISSUER,
        "aud": AUDIENCE,
    })
}

/// Whether the token is one of ours and of now. That its session lives is left to `login`.
pub(crate) fn verify(secret: &[u8], token: &str, now: i64) -> Result<Claims, TokenFault> {
    if token.len() > MAX_TOKEN {
        return Err(TokenFault::Form);
    }
    // RFC 7515 7.1: three parts, no more.
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenFault::Form)?;
    let (header, claims) =
        signed.split_once('.').filter(|(_, c)| !c.contains('.')).ok_or(TokenFault::Form)?;
    let part = |text: &str| -> Result<Value, TokenFault> {
        let bytes = decode_url_safe(text).ok_or(TokenFault::Form)?;
        let Unique(members) = serde_json::from_slice(&bytes).map_err(|_| TokenFault::Form)?;
        Ok(Value::Object(members))
    };
    let header = part(header)?;
    // Before the signature, so that nobody chooses how it is checked (RFC 8725 3.1). What else a header may say
    // (keys, their addresses, their names) is not asked.
    let media = match header.get("typ") {
        None => true,
        Some(kind) => kind.as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("JWT")),
    };
    if header["alg"] != "HS256" || !media || header.get("crit").is_some() {
        return Err(TokenFault::Header);
    }
    let signature = decode_url_safe(signature).ok_or(TokenFault::Form)?;
    // In constant time.
    mac(secret, signed.as_bytes()).verify_slice(&signature).map_err(|_| TokenFault::Signature)?;
    let claims = part(claims)?;
    let audience = match &claims["aud"] {
        // RFC 7519 4.1.3: one or a list.
        Value::Array(all) => all.iter().any(|one| one == AUDIENCE),
        one => one == AUDIENCE,
    };
    let ours = claims["iss"] == ISSUER && claims["sub"] == SUBJECT && claims["token_type"] == "access";
    if !ours || !audience {
        return Err(TokenFault::Claims);
    }
    let session = match claims.get("sid") {
        None => None,
        Some(id) => Some(id.as_str().and_then(|id| id.parse().ok()).ok_or(TokenFault::Claims)?),
    };
    // RFC 7519 2: a NumericDate may have a fraction.
    let date = |name| match claims.get(name) {
        None => Ok(None),
        Some(date) => date.as_f64().map(Some).ok_or(TokenFault::Claims),
    };
    let expires = date("exp")?.ok_or(TokenFault::Claims)?;
    let (begins, issued) = (date("nbf")?, date("iat")?);
    if session.is_none() && issued.is_none_or(|issued| expires - issued > COMMAND_LIFE as f64) {
        return Err(TokenFault::Claims);
    }
    let at = now as f64;
    // RFC 7519 4.1.4 and 4.1.5: not on or after, not before. What we have yet to issue was issued by a clock that
    // has been set back, and would live for too long.
    let early = [begins, issued].into_iter().flatten().any(|date| at < date);
    if early || at >= expires {
        return Err(TokenFault::Time);
    }
    Ok(Claims { session, expires: expires as i64 })
}

/// A JSON object without two members of one name: RFC 7515 4 and RFC 7519 4 let us choose whether to refuse such a
/// one or to take the last, and whoever sends it hopes that somebody takes the first.
struct Unique(Map<String, Value>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unique, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Unique, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name comes twice"));
                    }
                }
                Ok(Unique(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A token that says nothing and cannot be guessed: 32 random bytes in 44 characters.
pub(crate) fn opaque() -> String {
    base64(&random::bytes::<32>())
}

/// What is stored of an opaque token. No salt is needed: it has 256 bits of its own.
pub(crate) fn fingerprint(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// Says with which password and secret a session was begun, and gives away neither.
pub(crate) fn password_tag(secret: &[u8], password_hash: &str) -> String {
    hex(&mac(secret, password_hash.as_bytes()).finalize().into_bytes())
}

fn sign(secret: &[u8], header: &Value, claims: &Value) -> String {
    let part = |value: &Value| encode(URL_SAFE, false, value.to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = mac(secret, signed.as_bytes()).finalize().into_bytes();
    format!("{signed}.{}", encode(URL_SAFE, false, &signature))
}

fn mac(secret: &[u8], text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of every length");
    mac.update(text);
    mac
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Base64 with padding (RFC 4648 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    encode(STANDARD, true, bytes)
}

fn encode(digits: &[u8; 64], padded: bool, bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(digits[(group >> (18 - 6 * place) & 63) as usize]));
        }
        if padded {
            text.extend(std::iter::repeat_n('=', 3 - chunk.len()));
        }
    }
    text
}

/// Without padding, line breaks or spare bits (RFC 7515 2): so a token has one spelling only.
fn decode_url_safe(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut group = 0u32;
        for byte in chunk {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            group = group << 6 | u32::from(digit);
        }
        let spare = match chunk.len() {
            4 => 0,
            3 => 2,
            2 => 4,
            _ => return None,
        };
        if group & ((1 << spare) - 1) != 0 {
            return None;
        }
        let whole = (group >> spare).to_be_bytes();
        bytes.extend(&whole[whole.len() - (chunk.len() - 1)..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn session() -> MappingId {
        MappingId::from_random([7; 16])
    }

    /// Claims of a token that is good from 100 to 1000.
    fn good() -> Value {
        let mut claims = claims(100, 1000);
        claims["sid"] = session().to_string().into();
        claims
    }

    fn refused(header: &Value, claims: &Value) -> Option<TokenFault> {
        verify(SECRET, &sign(SECRET, header, claims), 500).err()
    }

    #[test]
    fn our_own_token_is_good_until_it_expires() {
        let token = issue(SECRET, session(), 100, 1000);
        let claims = Claims { session: Some(session()), expires: 1000 };
        assert_eq!(verify(SECRET, &token, 999), Ok(claims));
        assert_eq!(verify(SECRET, &token, 100), Ok(claims));
        assert_eq!(verify(SECRET, &token, 1000), Err(TokenFault::Time));
        assert_eq!(verify(SECRET, &token, 99), Err(TokenFault::Time), "of a clock since set back");
        assert_ne!(token, issue(SECRET, session(), 100, 1000), "each has its own jti");
    }

    #[test]
    fn a_command_may_make_itself_a_token_for_a_short_time_only() {
        let token = issue_for_command(SECRET, 100);
        let claims = Claims { session: None, expires: 100 + COMMAND_LIFE };
        assert_eq!(verify(SECRET, &token, 100), Ok(claims));
        assert_eq!(verify(SECRET, &token, 100 + COMMAND_LIFE), Err(TokenFault::Time));
        let mut long = super::claims(100, 101 + COMMAND_LIFE);
        assert_eq!(refused(&header(), &long), Some(TokenFault::Claims));
        long["sid"] = Value::Null;
        assert_eq!(refused(&header(), &long), Some(TokenFault::Claims));
    }

    #[test]
    fn the_example_of_the_rfc_is_read_as_it_says() {
        // RFC 7515 A.1: signature right, issuer "joe".
        let key = decode_url_safe(
            "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
        )
        .expect("a key");
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0\
                     dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(verify(&key, token, 0), Err(TokenFault::Claims));
        assert_eq!(verify(SECRET, token, 0), Err(TokenFault::Signature));
    }

    #[test]
    fn other_algorithms_and_extensions_are_refused() {
        for header in [
            json!({ "alg": "none" }),
            json!({ "alg": "None" }),
            json!({ "alg": "HS384" }),
            json!({ "alg": "HS512" }),
            json!({ "alg": "RS256" }),
            json!({ "alg": "ES256" }),
            json!({ "alg": "hs256" }),
            json!({ "alg": ["HS256"] }),
            json!({ "alg": null }),
            json!({ "typ": "JWT" }),
            json!({ "ALG": "HS256" }),
            json!({ "alg": "HS256", "typ": "JWE" }),
            json!({ "alg": "HS256", "typ": 1 }),
            json!({ "alg": "HS256", "crit": ["exp"] }),
            json!({ "alg": "HS256", "crit": [] }),
            json!({ "alg": "HS256", "crit": ["b64"], "b64": false }),
            json!({}),
        ] {
            assert_eq!(refused(&header, &good()), Some(TokenFault::Header), "{header}");
        }
        assert_eq!(refused(&json!([]), &good()), Some(TokenFault::Form));
        let unsigned = sign(SECRET, &json!({ "alg": "none" }), &good());
        let unsigned = &unsigned[..=unsigned.rfind('.').expect("a dot")];
        assert_eq!(verify(SECRET, unsigned, 500), Err(TokenFault::Header));
        let stripped = issue(SECRET, session(), 100, 1000);
        let stripped = &stripped[..=stripped.rfind('.').expect("a dot")];
        assert_eq!(verify(SECRET, stripped, 500), Err(TokenFault::Signature));
    }

    #[test]
    fn what_a_header_may_say_besides_changes_nothing() {
        // RFC 7515 4: parameters that are not understood are ignored; a key that comes with the token is not used.
        let key = encode(URL_SAFE, false, b"the attacker's key");
        for more in [
            json!({ "kid": "../../dev/null" }),
            json!({ "jwk": { "kty": "oct", "k": key } }),
            json!({ "jku": "https://evil.example/keys" }),
            json!({ "typ": "jwt" }),
        ] {
            let mut header = header();
            for (name, value) in more.as_object().expect("an object") {
                header[name] = value.clone();
            }
            assert_eq!(refused(&header, &good()), None, "{header}");
            let forged = sign(b"the attacker's key", &header, &good());
            assert_eq!(verify(SECRET, &forged, 500), Err(TokenFault::Signature), "{header}");
        }
    }

    #[test]
    fn a_name_that_comes_twice_is_refused() {
        let signed = |header: &str, claims: &str| {
            let part = |text: &str| encode(URL_SAFE, false, text.as_bytes());
            let signed = format!("{}.{}", part(header), part(claims));
            let signature = mac(SECRET, signed.as_bytes()).finalize().into_bytes();
            verify(SECRET, &format!("{signed}.{}", encode(URL_SAFE, false, &signature)), 500).err()
        };
        let (header, claims) = (header().to_string(), good().to_string());
        assert_eq!(signed(&header, &claims), None);
        let twice = |text: &str, member: &str| text.replacen('{', &format!("{{{member},"), 1);
        for (header, claims) in [
            (twice(&header, "\"alg\":\"none\""), claims.clone()),
            (twice(&header, "\"alg\":\"HS256\""), claims.clone()),
            (header.clone(), twice(&claims, "\"exp\":9999999999")),
            (header.clone(), twice(&claims, "\"\\u0065xp\":1")),
        ] {
            assert_eq!(signed(&header, &claims), Some(TokenFault::Form), "{header} {claims}");
        }
    }

    #[test]
    fn other_claims_are_refused() {
        let with = |name: &str, value: Value| {
            let mut claims = good();
            claims[name] = value;
            refused(&header(), &claims)
        };
        for (name, value, expected) in [
            ("sub", json!("admin"), None),
            ("aud", json!(["x", AUDIENCE]), None),
            ("nbf", json!(500), None),
            ("exp", json!(500.5), None),
            ("something", json!({ "else": 1 }), None),
            ("nbf", json!(501), Some(TokenFault::Time)),
            ("nbf", json!(500.5), Some(TokenFault::Time)),
            ("iat", json!(501), Some(TokenFault::Time)),
            ("exp", json!(500), Some(TokenFault::Time)),
            ("exp", json!(-1), Some(TokenFault::Time)),
            ("iss", json!("somebody"), Some(TokenFault::Claims)),
            ("iss", json!([ISSUER]), Some(TokenFault::Claims)),
            ("sub", json!("root"), Some(TokenFault::Claims)),
            ("aud", json!("somebody"), Some(TokenFault::Claims)),
            ("aud", json!(["somebody"]), Some(TokenFault::Claims)),
            ("aud", json!([]), Some(TokenFault::Claims)),
            ("aud", Value::Null, Some(TokenFault::Claims)),
            ("token_type", json!("refresh"), Some(TokenFault::Claims)),
            ("token_type", Value::Null, Some(TokenFault::Claims)),
            ("exp", Value::Null, Some(TokenFault::Claims)),
            ("exp", json!("9999"), Some(TokenFault::Claims)),
            ("nbf", json!("0"), Some(TokenFault::Claims)),
            ("iat", json!("0"), Some(TokenFault::Claims)),
            ("sid", json!("mine"), Some(TokenFault::Claims)),
            ("sid", json!(7), Some(TokenFault::Claims)),
        ] {
            assert_eq!(with(name, value.clone()), expected, "{name} {value}");
        }
        for name in ["iss", "sub", "aud", "token_type", "exp"] {
            let mut claims = good();
            claims.as_object_mut().expect("an object").remove(name);
            assert_eq!(refused(&header(), &claims), Some(TokenFault::Claims), "without {name}");
        }
    }

    #[test]
    fn a_token_tampered_with_is_refused_wherever_it_is() {
        let token = issue(SECRET, session(), 0, i64::MAX);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).expect("ASCII");
            assert!(verify(SECRET, &forged, 0).is_err(), "byte {at}");
        }
        assert_eq!(verify(b"another secret", &token, 0), Err(TokenFault::Signature));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let long = "a".repeat(1_000_000);
        for text in [
            "",
            ".",
            "..",
            "...",
            "a.b.c",
            "a.b",
            "e30=.e30.e30",
            "é.é.é",
            "e30.e30.e30.e30.e30",
            "WzFd.e30.",
            long.as_str(),
        ] {
            assert_eq!(verify(SECRET, text, 0), Err(TokenFault::Form), "{:.20}", text);
        }
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(URL_SAFE, false, bytes.as_bytes()), text);
            assert_eq!(decode_url_safe(text).expect(text), bytes.as_bytes());
        }
        assert_eq!(encode(STANDARD, true, b"fooba"), "Zm9vYmE=");
        assert_eq!(encode(STANDARD, true, &[0xff, 0xfe]), "//4=");
        for text in ["Z", "Zh", "Zm9vY", "Zm9vYmF", "Zm8=", "Zm+v", "Zm9v\n"] {
            assert_eq!(decode_url_safe(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_opaque_token_has_the_length_people_expect_and_hides_behind_its_fingerprint() {
        let token = opaque();
        assert_eq!(token.len(), 44);
        assert_ne!(token, opaque());
        assert_eq!(
            fingerprint("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "SHA-256 of FIPS 180-4"
        );
    }
}
