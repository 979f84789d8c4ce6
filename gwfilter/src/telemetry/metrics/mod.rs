//! What `/metrics` says: figures in, text out, in the form that whoever asks can read. Pure.
//!
//! [`table`] is the list of all metrics, and the only place where one has a name; [`figures`] is what they are made from.

pub mod carry;
pub mod figures;
pub mod groups;
pub mod names;
mod page;
pub mod process;
mod samples;
pub mod spread;
pub mod table;

use prometheus_client::encoding::{prometheus_text, text};

pub use figures::Figures;

/// A form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text form of Prometheus, 0.0.4, for those who do not ask for another one.
    Prometheus,
}

impl Form {
    /// What to answer to a request with this `Accept` header. Prometheus asks for OpenMetrics; `curl` and `promtool` do not.
    #[must_use]
    pub fn wanted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// The media type of [`render`]'s text.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// The text of one answer. Its size is bounded: by namespaces times [`groups::GATEWAYS`] times reasons, and by [`table::RULES`].
///
/// # Errors
/// The text could not be put together.
pub fn render(figures: &Figures, form: Form) -> Result<String, std::fmt::Error> {
    let registry = page::registry(figures);
    let mut written = String::new();
    match form {
        Form::OpenMetrics => text::encode(&mut written, &registry)?,
        Form::Prometheus => prometheus_text::encode(&mut written, &registry)?,
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
