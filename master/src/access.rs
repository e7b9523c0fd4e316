//! Who asks: a session cookie of a user, or an API token; and what that lets them see and do.

use crate::book::{AccessRole, Account, Book, BookError};
use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use thymus_record::time::SECOND;
use thymus_record::{Scope, Time};

/// A session lasts this long after its last use.
const SESSION: u64 = 12 * 3_600 * SECOND;
/// Sessions at once; the least used go.
const SESSIONS_MAX: usize = 10_000;
/// Failed sign-ins of one name in a minute.
const FAILURES_MAX: u32 = 8;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Principal {
    /// A user's name, or `api-token`.
    pub name: String,
    /// Role.
    pub role: AccessRole,
    /// What they may see.
    pub scope: Scope,
    /// A person at the page, not a program.
    pub by_cookie: bool,
}

#[derive(Default)]
struct Sessions {
    open: HashMap<[u8; 32], (String, Time)>,
    failures: HashMap<String, (Time, u32)>,
}

/// Sessions and checks.
#[derive(Default)]
pub struct Access {
    sessions: Mutex<Sessions>,
}

/// Random text of 32 bytes.
pub fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>())
}

/// The hash that secrets are kept as.
pub fn hash_of(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The hash that a password is kept as.
pub fn hash_password(password: &str) -> Result<String, String> {
    if password.chars().count() < 8 {
        return Err("the password is too short: take at least 8 characters".to_owned());
    }
    let salt = SaltString::encode_b64(&rand::rng().random::<[u8; 16]>()).map_err(|error| error.to_string())?;
    Argon2::default()
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| error.to_string())
}

impl Access {
    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs a user in; gives the cookie's value, or why not.
    pub fn sign_in(&self, book: &Book, user: &str, password: &str, now: Time) -> Result<String, String> {
        let wrong = "the user or the password is wrong".to_owned();
        {
            let mut sessions = self.sessions();
            sessions.failures.retain(|_, (since, _)| now.since(*since) < 60 * SECOND);
            if sessions.failures.get(user).is_some_and(|failures| failures.1 >= FAILURES_MAX) {
                return Err("too many failed sign-ins: wait a minute".to_owned());
            }
        }
        let account = book.user(user).map_err(|error| error.to_string())?;
        // A user that is not there costs as much time as a wrong password.
        let dummy = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$iUGvE3Mj1tTtq2MCE1FVYRBkp0n7zEQFvqyJ4wTVL0k";
        let kept = account.as_ref().map_or(dummy, |account| account.password.as_str());
        let right = PasswordHash::new(kept)
            .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
        if !right || account.is_none() {
            self.sessions().failures.entry(user.to_owned()).or_insert((now, 0)).1 += 1;
            return Err(wrong);
        }
        let cookie = random_text();
        let mut sessions = self.sessions();
        if sessions.open.len() >= SESSIONS_MAX {
            let oldest = sessions.open.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            oldest.and_then(|key| sessions.open.remove(&key));
        }
        sessions.open.insert(hash_of(&cookie), (user.to_owned(), now));
        Ok(cookie)
    }

    /// Ends a session.
    pub fn sign_out(&self, cookie: &str) {
        self.sessions().open.remove(&hash_of(cookie));
    }

    /// Who this session cookie belongs to.
    pub fn by_cookie(&self, book: &Book, cookie: &str, now: Time) -> Result<Option<Principal>, BookError> {
        let user = {
            let mut sessions = self.sessions();
            sessions.open.retain(|_, (_, used)| now.since(*used) < SESSION);
            let Some((user, used)) = sessions.open.get_mut(&hash_of(cookie)) else { return Ok(None) };
            *used = now;
            user.clone()
        };
        Ok(book.user(&user)?.map(|account| principal(user, &account, true)))
    }

    /// Who this API token belongs to.
    pub fn by_token(&self, book: &Book, token: &str) -> Result<Option<Principal>, BookError> {
        let hash = hash_of(token);
        let account = book.api_token(&hash)?;
        Ok(account.map(|account| {
            principal(
                format!("api-token {}", crate::book::to_hex(hash.first_chunk::<4>().unwrap_or(&[0; 4]))),
                &account,
                false,
            )
        }))
    }
}

fn principal(name: String, account: &Account, by_cookie: bool) -> Principal {
    Principal { name, role: account.role, scope: account.scope(), by_cookie }
}
