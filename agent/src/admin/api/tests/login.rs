//! Logging in and out, and what tokens and cookies open.

use super::*;

fn cookies(response: &Response) -> Vec<String> {
    response
        .headers
        .iter()
        .filter(|(name, _)| *name == "Set-Cookie")
        .map(|(_, value)| value.clone())
        .collect()
}

fn cookie_header(response: &Response) -> String {
    let pairs: Vec<_> =
        cookies(response).iter().filter_map(|c| c.split(';').next().map(str::to_owned)).collect();
    pairs.join("; ")
}

#[test]
fn a_good_token_wins_over_a_bad_one_whichever_way_they_came() {
    let world = World::new();
    let (good, bad) =
        (good_token(), token::issue_for_command(b"another secret", timestamp::now().unix_timestamp()));
    let expired = token::issue_for_command(SECRET.as_bytes(), 1000);
    for (bearer, cookie, status) in [
        (Some(&good), None, 200),
        (None, Some(&good), 200),
        (Some(&good), Some(&bad), 200),
        (Some(&bad), Some(&good), 200),
        (Some(&bad), Some(&bad), 401),
        (Some(&expired), None, 401),
        (None, None, 401),
    ] {
        let mut request = Request::new("GET", "/api/v1/status");
        if let Some(token) = bearer {
            request = request.field("Authorization", &format!("bearer {token}"));
        }
        if let Some(token) = cookie {
            request = request.field("Cookie", &format!("x=y; octoporty_access={token}"));
        }
        assert_eq!(world.ask(&request).status, status, "{bearer:?} {cookie:?}");
    }
    let refused = world
        .ask(&Request::new("GET", "/api/v1/status").field("Authorization", &format!("Bearer {expired}")));
    assert_eq!(refused.header("WWW-Authenticate"), Some("Bearer error=\"invalid_token\""));
}

#[test]
fn login_gives_a_token_that_works_and_cookies_that_fit_the_connection() {
    let world = World::new();
    let answer = world.ask(&login("password"));
    assert_eq!(answer.status, 200);
    let value = answer.value();
    assert_eq!(value["refreshToken"].as_str().map(str::len), Some(44));
    for date in ["expiresAt", "refreshExpiresAt"] {
        assert!(value[date].as_str().expect("a date").ends_with('Z'));
    }
    let token = value["token"].as_str().expect("a token");
    let status = Request::new("GET", "/api/v1/status").field("Authorization", &format!("Bearer {token}"));
    assert_eq!(world.ask(&status).status, 200);

    let plain = cookies(&answer);
    assert_eq!(plain.len(), 2);
    assert!(plain[0].starts_with(&format!("octoporty_access={token}; expires=")), "{}", plain[0]);
    assert!(plain[0].ends_with("; max-age=900; path=/; samesite=strict; httponly"), "{}", plain[0]);
    assert!(plain[1].ends_with("; max-age=604800; path=/api/v1/auth; samesite=strict; httponly"));
    let secure = world.ask(&login("password").field("X-Forwarded-Proto", "https"));
    assert!(cookies(&secure).iter().all(|cookie| cookie.contains("; secure;")));
    let status = Request::new("GET", "/api/v1/status").field("Cookie", &cookie_header(&answer));
    assert_eq!(world.ask(&status).status, 200);
}

#[test]
fn wrong_passwords_are_refused_and_then_locked_out() {
    let world = World::new();
    let long = "x".repeat(15_000);
    for password in ["wrong", "", "Password", "password ", &long] {
        assert_eq!(world.ask(&login(password)).status, 401, "{:.20}", password);
    }
    let locked = world.ask(&login("password"));
    assert_eq!(locked.status, 429);
    let wait: u64 = locked.header("Retry-After").expect("a time").parse().expect("seconds");
    assert!((50..=60).contains(&wait), "{wait}");
    let elsewhere = Request { peer: [192, 168, 1, 51].into(), ..login("password") };
    assert_eq!(world.ask(&elsewhere).status, 200);
    let again = world.ask(&login("password"));
    assert_eq!(again.status, 429, "another address's success frees nobody");
}

#[test]
fn a_login_without_a_password_is_malformed_and_null_is_wrong() {
    let world = World::new();
    let ask = |body: &str| world.ask(&Request::new("POST", "/api/v1/auth/login").json(body)).status;
    assert_eq!(ask("{}"), 400);
    assert_eq!(ask("{\"password\": 7}"), 400);
    assert_eq!(ask("{\"password\": null}"), 401);
    assert_eq!(ask("{\"PassWord\": \"password\"}"), 200);
}

#[test]
fn a_refresh_token_works_once_from_body_or_cookie_and_not_after_logout() {
    let world = World::new();
    let refresh = |token: &str| {
        let body = json!({ "refreshToken": token }).to_string();
        world.ask(&Request::new("POST", "/api/v1/auth/refresh").json(&body))
    };
    let first = world.ask(&login("password"));
    let token = first.value()["refreshToken"].as_str().expect("a token").to_owned();
    let second = refresh(&token);
    assert_eq!(second.status, 200);
    assert_eq!(refresh(&token).status, 401, "used twice");
    assert_eq!(refresh("").status, 401);

    let by_cookie = |answer: &Response, origin: &str| {
        let request = Request::new("POST", "/api/v1/auth/refresh")
            .field("Host", "nas:17201")
            .field("Origin", origin)
            .field("Cookie", &cookie_header(answer));
        world.ask(&request)
    };
    assert_eq!(by_cookie(&second, "http://evil.example").status, 403);
    let third = by_cookie(&second, "http://nas:17201");
    assert_eq!(third.status, 200);
    assert_ne!(third.value()["refreshToken"], second.value()["refreshToken"]);

    let logout = |origin: &str| {
        world.ask(
            &Request::new("POST", "/api/v1/auth/logout")
                .field("Host", "nas:17201")
                .field("Origin", origin)
                .field("Cookie", &cookie_header(&third)),
        )
    };
    assert_eq!(logout("http://evil.example").status, 403);
    let gone = logout("http://nas:17201");
    assert_eq!(gone.status, 204);
    assert!(cookies(&gone).iter().all(|c| c.contains("=; expires=Thu, 01 Jan 1970 00:00:00 GMT; max-age=0")));
    assert_eq!(by_cookie(&third, "http://nas:17201").status, 401);
    assert_eq!(world.ask(&Request::new("POST", "/api/v1/auth/logout")).status, 204);
}

/// What a browser would send after this answer.
fn with_cookies(request: Request, answer: &Response) -> Request {
    request
        .field("Host", "nas:17201")
        .field("Origin", "http://nas:17201")
        .field("Cookie", &cookie_header(answer))
}

fn with_bearer(request: Request, answer: &Response) -> Request {
    let token = answer.value()["token"].as_str().expect("a token").to_owned();
    request.field("Authorization", &format!("Bearer {token}"))
}

#[test]
fn an_access_token_ends_with_its_session_however_that_ends() {
    type Ending = fn(&World, &Response, &Response);
    let endings: [(&str, Ending); 5] = [
        ("logout by cookie", |world, own, _| {
            let request = Request::new("POST", "/api/v1/auth/logout");
            assert_eq!(world.ask(&with_cookies(request, own)).status, 204);
        }),
        ("logout by token", |world, own, _| {
            let request = Request::new("POST", "/api/v1/auth/logout");
            assert_eq!(world.ask(&with_bearer(request, own)).status, 204);
        }),
        ("ended from the list, by another session", |world, _, other| {
            let list = world.ask(&with_bearer(Request::new("GET", "/api/v1/auth/sessions"), other)).value();
            let others = list.as_array().expect("a list").iter().filter(|one| one["current"] == false);
            let ids: Vec<_> = others.map(|one| one["id"].as_str().expect("an id").to_owned()).collect();
            assert_eq!(ids.len(), 1);
            let end = || Request::new("DELETE", &format!("/api/v1/auth/sessions/{}", ids[0]));
            assert_eq!(world.ask(&with_bearer(end(), other)).status, 204);
            assert_eq!(world.ask(&with_bearer(end(), other)).status, 404);
        }),
        ("log out everywhere", |world, _, other| {
            let answer = world.ask(&with_cookies(Request::new("POST", "/api/v1/auth/logout-all"), other));
            assert_eq!(answer.status, 204);
            assert!(cookies(&answer).iter().all(|cookie| cookie.contains("max-age=0")));
            let again = with_bearer(Request::new("GET", "/api/v1/status"), other);
            assert_eq!(world.ask(&again).status, 401, "the one who asked for it too");
        }),
        ("gone from the database", |world, _, _| {
            assert_eq!(world.app.store.end_all_sessions().expect("asked"), 2);
        }),
    ];
    for (name, end) in endings {
        let world = World::new();
        let (own, other) = (world.ask(&login("password")), world.ask(&login("password")));
        let status = || with_bearer(Request::new("GET", "/api/v1/status"), &own);
        assert_eq!(world.ask(&status()).status, 200, "{name}");
        end(&world, &own, &other);
        let refused = world.ask(&status());
        assert_eq!(refused.status, 401, "{name}");
        assert!(refused.value()["message"].as_str().expect("a text").contains("has ended"), "{name}");
        let body = json!({ "refreshToken": own.value()["refreshToken"] }).to_string();
        let refresh = Request::new("POST", "/api/v1/auth/refresh").json(&body);
        assert_eq!(world.ask(&refresh).status, 401, "{name}");
    }
}

#[test]
fn a_renewed_token_belongs_to_the_same_session() {
    let world = World::new();
    let first = world.ask(&login("password"));
    let renewed = world.ask(&with_cookies(Request::new("POST", "/api/v1/auth/refresh"), &first));
    assert_eq!(renewed.status, 200);
    let list = world.ask(&with_bearer(Request::new("GET", "/api/v1/auth/sessions"), &renewed)).value();
    let list = list.as_array().expect("a list");
    assert_eq!(list.len(), 1);
    assert_eq!((&list[0]["current"], &list[0]["address"]), (&json!(true), &json!("192.168.1.50")));
    assert_eq!(world.ask(&with_bearer(Request::new("GET", "/api/v1/status"), &first)).status, 200);
}

#[test]
fn another_password_ends_the_sessions() {
    let world = World::new();
    let answer = world.ask(&login("password"));
    let token = answer.value()["refreshToken"].as_str().expect("a token").to_owned();
    let mut config = world.app.config.clone();
    config.password_hash = Secret::new(HASH.replace("$abcdefgh$", "$ABCDEFGH$"));
    let tunnel = Arc::clone(&world.tunnel) as Arc<dyn Control>;
    let app =
        App::new(config, world.app.store.clone(), Arc::clone(&world.app.history), tunnel, Live::default())
            .expect("an app");
    let body = json!({ "refreshToken": token }).to_string();
    let request = Request::new("POST", "/api/v1/auth/refresh").json(&body);
    assert_eq!(handle(&app, &request).status, 401);
    let request = with_bearer(Request::new("GET", "/api/v1/status"), &answer);
    assert_eq!(handle(&app, &request).status, 401, "an access token too");
}

#[test]
fn a_cookie_changes_things_from_the_own_page_only() {
    let world = World::new();
    let cookie = format!("octoporty_access={}", good_token());
    let ask = |method: &str, path: &str, fields: &[(&str, &str)]| {
        let request = Request::new(method, path).field("Cookie", &cookie).field("Host", "nas:17201");
        world.ask(&fields.iter().fold(request, |r, (name, value)| r.field(name, value))).status
    };
    assert_eq!(ask("POST", "/api/v1/reconnect", &[]), 403);
    assert_eq!(ask("POST", "/api/v1/reconnect", &[("Origin", "http://evil.example")]), 403);
    assert_eq!(ask("POST", "/api/v1/reconnect", &[("Sec-Fetch-Site", "same-site")]), 403);
    assert_eq!(world.tunnel.reconnects.load(Ordering::Relaxed), 0);
    assert_eq!(ask("POST", "/api/v1/reconnect", &[("Origin", "http://nas:17201")]), 200);
    assert_eq!(ask("POST", "/api/v1/reconnect", &[("Sec-Fetch-Site", "same-origin")]), 200);
    assert_eq!(ask("GET", "/api/v1/status", &[]), 200, "reading is not changing");
    let bearer = format!("Bearer {}", good_token());
    assert_eq!(ask("POST", "/api/v1/reconnect", &[("Authorization", &bearer)]), 200, "no page can send that");
    assert_eq!(world.tunnel.reconnects.load(Ordering::Relaxed), 3);
}
