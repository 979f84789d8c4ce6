//! The query part of the API's addresses, read and written. Pure.

use std::collections::BTreeMap;

/// What stands behind the `?`, decoded. A route takes what it knows; what is left over is a mistake of who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

/// Why it cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParamsError {
    /// Not `%` and two hexadecimal digits, or no UTF-8.
    #[error("`{0}` is not encoded as the query part of an address is")]
    Encoding(String),
    /// Nobody could say which one counts.
    #[error("`{0}` stands there twice")]
    Twice(String),
    /// Not known here.
    #[error("`{0}` is not known here")]
    Unknown(String),
    /// A value that cannot be used.
    #[error("`{key}`: {why}")]
    Value {
        /// Whose.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Params {
    /// `key=value&key=value`, percent-encoded, `+` for a space.
    ///
    /// # Errors
    /// It is not encoded like that, or a key stands there twice.
    pub fn parse(query: &str) -> Result<Self, ParamsError> {
        let mut all = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key)?;
            if all.contains_key(&key) {
                return Err(ParamsError::Twice(key));
            }
            all.insert(key, decode(value)?);
        }
        Ok(Self(all))
    }

    /// Takes a value out.
    pub fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    /// Takes a value out and reads it.
    ///
    /// # Errors
    /// [`ParamsError::Value`], with the reader's words.
    pub fn read<T, E: ToString>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ParamsError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        parse(&value).map(Some).map_err(|e| ParamsError::Value {
            key,
            why: e.to_string(),
        })
    }

    /// Everything was taken.
    ///
    /// # Errors
    /// Something was not.
    pub fn end(&self) -> Result<(), ParamsError> {
        match self.0.keys().next() {
            Some(key) => Err(ParamsError::Unknown(key.clone())),
            None => Ok(()),
        }
    }
}

/// `path?key=value&…`.
#[must_use]
pub fn target(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut target = path.to_owned();
    for (number, (key, value)) in pairs.iter().enumerate() {
        target.push(if number == 0 { '?' } else { '&' });
        encode(key, &mut target);
        target.push('=');
        encode(value, &mut target);
    }
    target
}

fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn decode(text: &str) -> Result<String, ParamsError> {
    let wrong = || ParamsError::Encoding(text.to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                let (high, low) = high.zip(low).ok_or_else(wrong)?;
                u8::try_from(high << 4 | low).map_err(|_| wrong())?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_then_read_back() {
        let pairs = [
            ("dest", "[2001:db8::10]:443"),
            ("policy", "ns[foo]-policy[a b&c]-rule[0]"),
            ("ü", "100 %+"),
            ("empty", ""),
        ];
        let target = target("/v1/explain", &pairs);
        assert!(target.is_ascii(), "{target}");
        let (path, query) = target.split_once('?').unwrap();
        assert_eq!(path, "/v1/explain");
        let mut params = Params::parse(query).unwrap();
        for (key, value) in pairs {
            assert_eq!(params.take(key).as_deref(), Some(value));
        }
        assert_eq!(params.end(), Ok(()));
        assert_eq!(super::target("/v1/status", &[]), "/v1/status");
    }

    #[test]
    fn what_is_no_query_then_an_error_that_names_it() {
        for (query, wanted) in [
            ("a=%", "`%` is not encoded"),
            ("a=%4", "`%4` is not encoded"),
            ("a=%+1", "`%+1` is not encoded"),
            ("a=%FF", "`%FF` is not encoded"),
            ("a=1&b=2&a=3", "`a` stands there twice"),
        ] {
            let error = Params::parse(query).unwrap_err().to_string();
            assert!(error.contains(wanted), "{query}: {error}");
        }
        let mut params = Params::parse("rate=x&b").unwrap();
        let rate = params.read("rate", str::parse::<u32>).unwrap_err().to_string();
        assert_eq!(rate, "`rate`: invalid digit found in string");
        assert_eq!(params.end().unwrap_err().to_string(), "`b` is not known here");
    }
}
