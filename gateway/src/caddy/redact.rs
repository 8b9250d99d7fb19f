//! Caddy's configuration for people's eyes: secrets replaced, our own routes marked. Pure.
//!
//! What is a secret is guessed by the name of its key, and rather too much than too little: Caddy's plug-ins (DNS
//! providers above all) call them as they like.

use serde_json::{Map, Value};

use super::plan;

/// Stands for a secret.
pub(crate) const REDACTED: &str = "(redacted)";
/// Key that marks a route of ours.
pub(crate) const MARK: &str = "#octoporty";
/// What the mark says.
const MARK_TEXT: &str = "written and kept up to date by this Gateway";

/// Words that make a key a secret, whole.
const WORDS: [&str; 27] = [
    "access",
    "account",
    "api",
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "credentials",
    "hash",
    "hmac",
    "key",
    "keys",
    "pass",
    "passphrase",
    "passwd",
    "password",
    "passwords",
    "pin",
    "private",
    "pwd",
    "salt",
    "secret",
    "secrets",
    "signature",
    "token",
];
/// Parts that make a key a secret, wherever they stand in it.
const PARTS: [&str; 6] = ["token", "secret", "passw", "apikey", "credential", "privatekey"];
/// Keys that only look like secrets.
const HARMLESS: [&str; 2] = ["key_type", "hash_prefix"];

/// Replaces secrets and marks our routes.
pub(crate) fn redact(config: &mut Value) {
    walk(config, false);
}

fn walk(value: &mut Value, secret: bool) {
    match value {
        Value::Object(fields) => object(fields, secret),
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, secret)),
        Value::String(text) => {
            if (secret && !text.is_empty() && !is_placeholder(text)) || looks_secret(text) {
                *text = REDACTED.to_owned();
            } else if let Some(safe) = without_user(text) {
                *text = safe;
            }
        }
        Value::Number(_) if secret => *value = REDACTED.into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn object(fields: &mut Map<String, Value>, secret: bool) {
    let ours = fields.contains_key("handle")
        && fields.get("@id").and_then(Value::as_str).is_some_and(|id| id.starts_with(plan::ID_PREFIX));
    for (key, value) in fields.iter_mut() {
        walk(value, secret || is_secret(key));
    }
    if ours {
        fields.insert(MARK.to_owned(), MARK_TEXT.into());
    }
}

/// Whether a key's value is nobody's business.
fn is_secret(key: &str) -> bool {
    if HARMLESS.contains(&key) {
        return false;
    }
    let mut words = vec![String::new()];
    for c in key.chars() {
        if !c.is_ascii_alphanumeric() {
            words.push(String::new());
            continue;
        }
        let word = words.last_mut().expect("never empty");
        // camelCase: a capital begins a word unless the one before was one, too.
        if c.is_ascii_uppercase() && word.ends_with(|before: char| !before.is_ascii_uppercase()) {
            words.push(String::new());
        }
        words.last_mut().expect("never empty").push(c);
    }
    let mut joined = String::new();
    for word in &mut words {
        word.make_ascii_lowercase();
        joined.push_str(word);
    }
    words.iter().any(|word| WORDS.contains(&word.as_str())) || PARTS.iter().any(|part| joined.contains(part))
}

/// `{env.NAME}` and its like name a secret without being one.
fn is_placeholder(text: &str) -> bool {
    text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).is_some_and(|name| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'/'))
    })
}

/// A text that is a secret whatever its key is called: keys in PEM, hashes of passwords, tokens of logins.
fn looks_secret(text: &str) -> bool {
    (text.contains("-----BEGIN") && text.contains("PRIVATE KEY"))
        || ["$2a$", "$2b$", "$2y$", "$argon2", "$scrypt$", "$6$", "$5$", "Bearer ", "Basic "]
            .iter()
            .any(|begin| text.starts_with(begin))
}

/// `scheme://user:password@host` without the middle.
fn without_user(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (_, host) = authority.rsplit_once('@')?;
    Some(format!("{scheme}://{REDACTED}@{host}{}", &rest[authority.len()..]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_of_many_names_are_gone_and_the_rest_stays() {
        let mut config = json!({
            "apps": {
                "http": { "servers": { "srv0": {
                    "listen": [":443"],
                    "routes": [
                        { "handle": [{ "handler": "authentication", "providers": { "http_basic": {
                            "hash": { "algorithm": "bcrypt" },
                            "accounts": [{ "username": "ann", "password": "S3CRETA" }],
                        } } }] },
                        { "match": [{ "host": ["a.test"] }], "handle": [{ "handler": "reverse_proxy",
                            "upstreams": [{ "dial": "127.0.0.1:17200" }],
                            "headers": { "request": { "set": {
                                "Authorization": ["S3CRETB"], "X-Api-Key": ["S3CRETC"], "X-Colour": ["blue"],
                            } } } }] },
                        { "handle": [{ "body": "$2a$14$S3CRETD" }] },
                    ],
                } } },
                "tls": { "automation": { "policies": [{ "key_type": "p256", "issuers": [{
                    "email": "you@example.com", "module": "acme",
                    "external_account": { "key_id": "S3CRETE", "mac_key": "S3CRETF" },
                    "challenges": { "dns": { "provider": {
                        "name": "cloudflare", "api_token": "S3CRETG", "auth_token": 12345678, "zoneToken": "{env.ZONE}",
                        "endpoint": "https://ann:S3CRETH@dns.example/v1?x=1", "AccessKeyID": "S3CRETI", "secretkey": "S3CRETJ",
                    } } },
                }] }] } },
            },
            "pem": "-----BEGIN EC PRIVATE KEY-----\nS3CRETK\n",
        });
        redact(&mut config);
        let text = config.to_string();
        assert!(!text.contains("S3CRET") && !text.contains("12345678"), "{text}");
        for kept in [
            "127.0.0.1:17200",
            "a.test",
            ":443",
            "reverse_proxy",
            "blue",
            "cloudflare",
            "you@example.com",
            "p256",
            "{env.ZONE}",
            "https://(redacted)@dns.example/v1?x=1",
            "ann",
        ] {
            assert!(text.contains(kept), "{kept} is missing: {text}");
        }
    }

    #[test]
    fn our_own_routes_are_marked_and_others_are_not() {
        let mut config = json!({ "routes": [
            { "@id": "octoporty-1", "handle": [] },
            { "@id": "mine", "handle": [] },
            { "handle": [{ "handler": "static_response", "body": "octoporty-1" }] },
        ] });
        redact(&mut config);
        let marks: Vec<_> =
            config["routes"].as_array().unwrap().iter().map(|route| route.get(MARK).is_some()).collect();
        assert_eq!(marks, [true, false, false]);
    }
}
