//! Tokens: `tm1` and URL-safe base64 of
//!
//! ```text
//! root fingerprint 32 B | id 16 B | Ed25519 seed 32 B | addresses: {length u8, text}… | crc32c u32
//! ```
//!
//! The master keeps only id and public key. The token pins the root, so that the joiner knows its master, and its seed
//! signs the request, so that a relay can pass it on but not use it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "tm1";
/// Longest text that is looked at.
const TEXT_MAX: usize = 4_096;
const ADDRESSES_MAX: usize = 16;

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the deployment's root certificate.
    pub root: [u8; 32],
    /// Its name at the master.
    pub id: [u8; 16],
    /// The seed of its signing key.
    pub seed: [u8; 32],
    /// Where the master is: `host:port`, tried in order.
    pub addresses: Vec<String>,
}

/// The text is no token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Nothing.
    #[error("the token is empty: give the text that 'thymus-master token create' printed")]
    Empty,
    /// Not a token at all.
    #[error("this is no token: one begins with 'tm1'; give the text that 'thymus-master token create' printed")]
    Foreign,
    /// Damaged.
    #[error("the token is damaged or cut short: copy it whole")]
    Damaged,
}

impl Token {
    /// The key that signs join requests.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.seed)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&self.root);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.seed);
        for address in self.addresses.iter().take(ADDRESSES_MAX) {
            bytes.push(u8::try_from(address.len()).unwrap_or_default());
            bytes.extend_from_slice(address.as_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:02x?}, {:?})", self.id, self.addresses)
    }
}

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let coded = text.strip_prefix(PREFIX).ok_or(TokenError::Foreign)?;
        if text.len() > TEXT_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(coded).ok().ok_or(TokenError::Damaged)?;
        parse(&bytes).ok_or(TokenError::Damaged)
    }
}

fn parse(bytes: &[u8]) -> Option<Token> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (root, rest) = body.split_first_chunk::<32>()?;
    let (id, rest) = rest.split_first_chunk::<16>()?;
    let (seed, mut rest) = rest.split_first_chunk::<32>()?;
    let mut addresses = Vec::new();
    while let Some((length, more)) = rest.split_first() {
        let (text, more) = more.split_at_checked(usize::from(*length))?;
        addresses.push(String::from_utf8(text.to_vec()).ok()?);
        rest = more;
    }
    let has_address = !addresses.is_empty() && addresses.len() <= ADDRESSES_MAX;
    has_address.then_some(Token { root: *root, id: *id, seed: *seed, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> Token {
        Token {
            root: [1; 32],
            id: [2; 16],
            seed: [3; 32],
            addresses: vec!["master.example:443".into(), "[2001:db8::1]:443".into()],
        }
    }

    #[test]
    fn a_token_survives_its_text() {
        assert_eq!(token().to_string().parse(), Ok(token()));
    }

    proptest! {
        #[test]
        fn any_change_is_seen(at in 3usize..200, letter in "[A-Za-z0-9_-]") {
            let text = token().to_string();
            let at = at.min(text.len() - 1);
            let mut changed = text.clone();
            changed.replace_range(at..=at, &letter);
            // The last letter of base64 has bits that mean nothing; another text of the same bytes is the same token.
            prop_assume!(changed != text);
            prop_assert!(changed.parse::<Token>().map_or(true, |other| other == token()));
        }

        #[test]
        fn foreign_text_is_refused_in_words(text in ".{0,80}") {
            prop_assert!(text.parse::<Token>().is_err());
        }
    }
}
