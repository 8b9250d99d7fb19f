//! JSON Web Tokens (RFC 7519) signed with HMAC-SHA256 (RFC 7515, RFC 7518 3.2), and the random tokens that
//! renew them.
//!
//! Pure but for the randomness. We issue every token we accept, so there is one algorithm, one issuer, one
//! audience, and no leeway: whoever issues and checks has one clock. Who may get a token is left to `login`.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use shared::mapping::MappingId;

use crate::random;

const ISSUER: &str = "Octoporty.Agent";
const AUDIENCE: &str = "Octoporty.Agent.Web";
/// The earlier program's framework names the user by this, besides `sub`.
const NAME_CLAIM: &str = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name";
/// The one user there is.
const SUBJECT: &str = "admin";
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

/// A token that lets its bearer use the API until `expires`, in seconds since 1970.
pub(crate) fn issue(secret: &[u8], expires: i64) -> String {
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let claims = json!({
        NAME_CLAIM: SUBJECT,
        "sub": SUBJECT,
        "jti": MappingId::from_random(random::bytes()).to_string(),
        "token_type": "access",
        "exp": expires,
        "iss": ISSUER,
        "aud": AUDIENCE,
    });
    sign(secret, &header, &claims)
}

/// Whether the token is one of ours and of now.
pub(crate) fn verify(secret: &[u8], token: &str, now: i64) -> Result<(), TokenFault> {
    if token.len() > MAX_TOKEN {
        return Err(TokenFault::Form);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenFault::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenFault::Form)?;
    let part = |text: &str| -> Result<Value, TokenFault> {
        let bytes = decode_url_safe(text).ok_or(TokenFault::Form)?;
        serde_json::from_slice(&bytes).map_err(|_| TokenFault::Form)
    };
    let header = part(header)?;
    // Before the signature, so that nobody chooses how it is checked (RFC 8725 3.1).
    if header["alg"] != "HS256" || header.get("crit").is_some() {
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
    if claims["iss"] != ISSUER || !audience || claims["token_type"] != "access" {
        return Err(TokenFault::Claims);
    }
    let expires = claims["exp"].as_i64().ok_or(TokenFault::Claims)?;
    let begins = match claims.get("nbf") {
        None => i64::MIN,
        Some(begins) => begins.as_i64().ok_or(TokenFault::Claims)?,
    };
    // RFC 7519 4.1.4: not on or after.
    if (begins..expires).contains(&now) { Ok(()) } else { Err(TokenFault::Time) }
}

/// A token that says nothing and cannot be guessed: 32 random bytes in 44 characters.
pub(crate) fn opaque() -> String {
    encode(STANDARD, true, &random::bytes::<32>())
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

    fn claims() -> Value {
        json!({ "sub": "admin", "token_type": "access", "exp": 1000, "iss": ISSUER, "aud": AUDIENCE })
    }

    fn header() -> Value {
        json!({ "alg": "HS256", "typ": "JWT" })
    }

    #[test]
    fn our_own_token_is_good_until_it_expires() {
        let token = issue(SECRET, 1000);
        assert_eq!(verify(SECRET, &token, 999), Ok(()));
        assert_eq!(verify(SECRET, &token, 1000), Err(TokenFault::Time));
        assert_ne!(token, issue(SECRET, 1000), "each has its own jti");
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
            json!({ "alg": "HS512" }),
            json!({ "alg": "RS256" }),
            json!({ "alg": "hs256" }),
            json!({ "typ": "JWT" }),
            json!({ "alg": "HS256", "crit": ["exp"] }),
            json!([]),
        ] {
            let token = sign(SECRET, &header, &claims());
            assert_eq!(verify(SECRET, &token, 0), Err(TokenFault::Header), "{header}");
        }
        let unsigned = sign(SECRET, &json!({ "alg": "none" }), &claims());
        let unsigned = &unsigned[..=unsigned.rfind('.').expect("a dot")];
        assert_eq!(verify(SECRET, unsigned, 0), Err(TokenFault::Header));
    }

    #[test]
    fn other_claims_are_refused() {
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            verify(SECRET, &sign(SECRET, &header(), &claims), 500)
        };
        assert_eq!(with("sub", json!("admin")), Ok(()));
        assert_eq!(with("aud", json!(["x", AUDIENCE])), Ok(()));
        assert_eq!(with("nbf", json!(500)), Ok(()));
        assert_eq!(with("nbf", json!(501)), Err(TokenFault::Time));
        assert_eq!(with("exp", json!(500)), Err(TokenFault::Time));
        for (name, value) in [
            ("iss", json!("somebody")),
            ("aud", json!("somebody")),
            ("aud", json!(["somebody"])),
            ("aud", Value::Null),
            ("token_type", json!("refresh")),
            ("exp", Value::Null),
            ("exp", json!("9999")),
            ("nbf", json!("0")),
        ] {
            assert_eq!(with(name, value.clone()), Err(TokenFault::Claims), "{name} {value}");
        }
    }

    #[test]
    fn a_token_tampered_with_is_refused_wherever_it_is() {
        let token = issue(SECRET, i64::MAX);
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
        for text in ["", ".", "..", "...", "a.b.c", "a.b", "e30=.e30.e30", "é.é.é", long.as_str()] {
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
