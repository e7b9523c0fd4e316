//! Errors as problem+json.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// An error in words.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// An error with this status and these words.
    pub fn new(status: StatusCode, detail: &str) -> Problem {
        Problem { status, detail: detail.to_owned() }
    }

    /// 400.
    pub fn bad(detail: &str) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 403.
    pub fn forbidden(detail: &str) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, detail)
    }

    /// 404.
    pub fn unknown(detail: &str) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    /// 500; what broke is logged, too.
    pub fn internal(error: &dyn std::fmt::Display) -> Problem {
        tracing::error!("{error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
    }
}

impl From<thymus_store::QueryError> for Problem {
    fn from(error: thymus_store::QueryError) -> Problem {
        match error {
            thymus_store::QueryError::Bad(words) => Problem::bad(&words),
            other => Problem::internal(&other),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("error");
        let body = serde_json::json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail});
        let mut response = (self.status, body.to_string()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
