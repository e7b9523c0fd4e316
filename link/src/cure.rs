//! Why a connection failed, in words that say what to do.

use crate::goodbye::is_cut;
use rustls::{AlertDescription, CertificateError, Error};
use std::io;
use std::net::SocketAddr;

/// An error in words; for certificates that are no longer good, with what to do.
pub(crate) fn with_cure(error: &io::Error) -> String {
    let cure = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(AlertDescription::CertificateExpired)) => {
            "our certificate has expired: check this machine's clock, else join again with a new token and an empty state folder"
        }
        Some(Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::BadCertificate)) => {
            "the master does not know our certificate's authority: it was set up anew; join again"
        }
        Some(Error::InvalidCertificate(
            CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. },
        )) => "the master's certificate is not valid at this machine's time: check the clocks of both",
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "this is not the master that we joined: another one answers at its address"
        }
        _ => return ended(error),
    };
    format!("{cure} ({error})")
}

/// Why a connection that stood is over. Who is killed or cut off says no goodbye, which is no matter of TLS.
pub fn ended(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            "it ended without a goodbye: the other side was stopped, or lost its network".to_owned()
        }
        _ if is_cut(error) => "the other side closed it while we spoke".to_owned(),
        _ => error.to_string(),
    }
}

/// Whom we are connected to.
pub(crate) fn words_of(ends: Option<(SocketAddr, SocketAddr)>) -> String {
    ends.map_or_else(|| "the master".to_owned(), |(_, peer)| peer.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_went_without_a_goodbye_is_told_in_words_of_its_own() {
        let error = io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "peer closed connection without sending TLS close_notify: https://docs.rs/",
        );
        for said in [ended(&error), with_cure(&error)] {
            assert!(said.contains("without a goodbye") && !said.contains("https"), "{said}");
        }
        assert_eq!(ended(&io::Error::other("it has gone silent")), "it has gone silent");
    }
}
