//! What a registry wants to hear after it said 401: the challenge, and the token endpoint
//! (distribution spec, "token authentication").

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_auth::ChallengeParser;
use reqwest::{Url, header::HeaderValue};
use serde::Deserialize;

use super::{
    RegistryClient, RegistryError,
    credentials::{Login, secret_header},
    http::Ask,
    place::{Place, authority},
};

/// Longest `WWW-Authenticate` that is read, over all its lines.
const MAX_CHALLENGE: usize = 8 << 10;
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// Where the endpoint does not say how long a token lasts.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in its last moments, when a clock or a queue would make it late.
const MARGIN: Duration = Duration::from_secs(5);
/// One per model that is being pulled or looked at.
const MAX_TOKENS: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// By registry and repository.
    known: Mutex<HashMap<(String, String), Token>>,
}

#[derive(Clone, Debug)]
struct Token {
    header: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Tokens {
    pub(super) fn cached(&self, base: &Url, repository: &str) -> Option<HeaderValue> {
        let key = (base.to_string(), repository.to_owned());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&key).filter(|token| token.until > Instant::now()).map(|t| t.header.clone())
    }

    /// What to send to satisfy a 401; `None` if there is nothing more to send.
    pub(super) async fn answer(
        &self,
        client: &RegistryClient,
        place: &Place,
        repository: &str,
        challenge: &[String],
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let base = &place.base;
        let host = authority(base);
        let login = client.login(place)?;
        let texts: Vec<&str> = challenge.iter().map(String::as_str).collect();
        match read_challenges(&texts).map_err(|why| RegistryError::Challenge { host, why })? {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(login.and_then(|login| login.basic())),
            // A bare token was sent already, and this is what the registry thinks of it.
            Some(Challenge::Bearer { .. })
                if login.as_ref().is_some_and(|login| login.username.is_empty()) =>
            {
                Ok(None)
            }
            Some(Challenge::Bearer { realm, service, scope }) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
                let url = token_url(base, &realm, service.as_deref(), &scope)?;
                let token = fetch(client, base, url, login.as_ref()).await?;
                let header = token.header.clone();
                self.keep(base, repository, token);
                Ok(Some(header))
            }
        }
    }

    fn keep(&self, base: &Url, repository: &str, token: Token) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_TOKENS {
            known.clear();
        }
        known.insert((base.to_string(), repository.to_owned()), token);
    }
}

async fn fetch(
    client: &RegistryClient,
    base: &Url,
    url: Url,
    login: Option<&Login>,
) -> Result<Token, RegistryError> {
    let asked = Instant::now();
    let host = authority(&url);
    let authorization = login.and_then(Login::basic);
    let answer = client.follow(Ask { authorization, ..Ask::new(url) }).await?;
    let what = format!("a token for {}", authority(base));
    let body = answer.accepted(&host, &what).await?.bytes(MAX_TOKEN_BYTES, &host).await?;
    let unreadable =
        |why: &str| RegistryError::Challenge { host: host.clone(), why: why.to_owned() };
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|_| unreadable("its token is not JSON"))?;
    let text = answer.token.or(answer.access_token).filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| unreadable("it sent no token"))?;
    let header = secret_header(format!("Bearer {text}"))
        .ok_or_else(|| unreadable("its token has odd letters in it"))?;
    let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
    let life = life.min(Duration::from_secs(24 * 60 * 60)).saturating_sub(MARGIN);
    Ok(Token { header, until: asked + life })
}

/// The endpoint's address. The login goes there, so it must be as safe as the registry was.
fn token_url(
    base: &Url,
    realm: &str,
    service: Option<&str>,
    scope: &str,
) -> Result<Url, RegistryError> {
    let bad = |why: &str| RegistryError::Challenge { host: authority(base), why: why.to_owned() };
    let mut url = Url::parse(realm).map_err(|_| bad("its realm is not an address"))?;
    match (base.scheme(), url.scheme()) {
        ("https", "http") => {
            return Err(bad("it would have the login sent without encryption"));
        }
        (_, "http" | "https") => {}
        _ => return Err(bad("its realm is neither http nor https")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("its realm has a password in it"));
    }
    let mut query = url.query_pairs_mut();
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    query.append_pair("scope", scope);
    drop(query);
    Ok(url)
}

/// The best of what a server offers: a token before a password.
fn read_challenges(texts: &[&str]) -> Result<Option<Challenge>, String> {
    if texts.iter().map(|text| text.len()).sum::<usize>() > MAX_CHALLENGE {
        return Err("its challenge is too long".into());
    }
    let mut basic = None;
    let mut unreadable = None;
    for challenge in texts.iter().flat_map(|text| ChallengeParser::new(text.trim())) {
        let challenge = match challenge {
            Ok(challenge) => challenge,
            Err(e) => {
                unreadable = Some(e.to_string());
                continue;
            }
        };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            continue;
        }
        let find = |name: &str| {
            let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
        };
        if let Some(realm) = find("realm") {
            let (service, scope) = (find("service"), find("scope"));
            return Ok(Some(Challenge::Bearer { realm, service, scope }));
        }
    }
    match (basic, unreadable) {
        (None, Some(why)) => Err(why.chars().take(120).collect()),
        (basic, _) => Ok(basic),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_are_read_as_the_grammar_has_them() {
        for (texts, expected) in [
            (
                vec![
                    r#"Bearer realm="https://auth.example/token",service="r, \"x\"",scope="repository:a/b:pull,push""#,
                ],
                bearer(
                    "https://auth.example/token",
                    Some(r#"r, "x""#),
                    Some("repository:a/b:pull,push"),
                ),
            ),
            (vec![r#"bearer REALM = "https://a/t" "#], bearer("https://a/t", None, None)),
            (
                vec![r#"Basic realm="x", Bearer realm="https://a/t",service=s"#],
                bearer("https://a/t", Some("s"), None),
            ),
            (
                vec![r#"Basic realm="x""#, r#"Bearer realm="https://a/t""#],
                bearer("https://a/t", None, None),
            ),
            (vec![r#"Basic realm="x, Bearer realm=y""#], Some(Challenge::Basic)),
            (vec![r#"Digest realm="x", nonce="y""#], None),
            (vec!["Bearer"], None),
            (vec![], None),
        ] {
            assert_eq!(read_challenges(&texts).expect("reads"), expected, "{texts:?}");
        }
        assert!(read_challenges(&[r#"Bearer realm="https://a"#]).is_err());
        assert!(read_challenges(&[&"Bearer a=b, ".repeat(2_000)]).is_err());
    }

    #[test]
    fn a_login_never_goes_from_https_to_http() {
        let https = Url::parse("https://r.example/").expect("an address");
        for realm in ["http://r.example/token", "http://auth.example/t", "file:///t", "nothing"] {
            assert!(token_url(&https, realm, None, "s").is_err(), "{realm}");
        }
        let url = token_url(&https, "https://auth.example/t?a=b", Some("r"), "repository:x:pull");
        assert_eq!(
            url.expect("may").as_str(),
            "https://auth.example/t?a=b&service=r&scope=repository%3Ax%3Apull"
        );
    }

    proptest! {
        #[test]
        fn noise_in_a_challenge_is_refused_or_ignored(text in "(Bearer |Basic )?[ -~]{0,200}") {
            let _ = read_challenges(&[&text]);
        }
    }
}
