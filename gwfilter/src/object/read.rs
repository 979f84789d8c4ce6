//! Reading JSON values with a path and a memory of what was wrong.
//!
//! Null and absent are the same, as for the API server. A value of a wrong type reads as absent *and* leaves a fault;
//! whoever decodes an object must look at the faults before using what was read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

/// What was wrong with an object: `path: what was expected, what was found`.
#[derive(Debug, Default)]
pub(crate) struct Faults(RefCell<Vec<String>>);

impl Faults {
    /// Notes a fault at a path.
    pub(crate) fn add(&self, path: &str, what: &str) {
        self.0.borrow_mut().push(format!("{path}: {what}"));
    }

    /// All faults, in the order they were found.
    pub(crate) fn into_inner(self) -> Vec<String> {
        self.0.into_inner()
    }
}

/// A value, where it stands, and where to note what is wrong with it.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    value: &'a Value,
    path: String,
    faults: &'a Faults,
}

/// Names a value's type for people.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl<'a> Cursor<'a> {
    /// Starts at the top of an object.
    pub(crate) fn new(value: &'a Value, faults: &'a Faults) -> Self {
        Self {
            value,
            path: String::new(),
            faults,
        }
    }

    /// The raw value.
    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    /// Whether nothing is there.
    pub(crate) fn is_absent(&self) -> bool {
        self.value.is_null()
    }

    /// Notes a fault here.
    pub(crate) fn fault(&self, what: &str) {
        self.faults.add(&self.path, what);
    }

    fn wrong<T>(&self, expected: &str) -> Option<T> {
        self.fault(&format!("expected {expected}, found {}", type_name(self.value)));
        None
    }

    /// The field of an object; absent where this is absent, a fault where this is no object.
    pub(crate) fn field(&self, key: &str) -> Cursor<'a> {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        let value = match self.value {
            Value::Object(map) => map.get(key).unwrap_or(&Value::Null),
            Value::Null => &Value::Null,
            _ => {
                // One fault per object, not one per field asked for.
                let text = format!(
                    "{}: expected an object, found {}",
                    self.path,
                    type_name(self.value)
                );
                let mut faults = self.faults.0.borrow_mut();
                if !faults.contains(&text) {
                    faults.push(text);
                }
                &Value::Null
            }
        };
        Cursor {
            value,
            path,
            faults: self.faults,
        }
    }

    /// A path of fields.
    pub(crate) fn at(&self, keys: &[&str]) -> Cursor<'a> {
        keys.iter().fold(self.clone(), |cursor, key| cursor.field(key))
    }

    /// The elements of a list.
    pub(crate) fn list(&self) -> Vec<Cursor<'a>> {
        match self.value {
            Value::Null => Vec::new(),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(i, value)| Cursor {
                    value,
                    path: format!("{}[{i}]", self.path),
                    faults: self.faults,
                })
                .collect(),
            _ => self.wrong("a list").unwrap_or_default(),
        }
    }

    /// The entries of an object, in order of their keys.
    pub(crate) fn entries(&self) -> Vec<(&'a str, Cursor<'a>)> {
        match self.value {
            Value::Null => Vec::new(),
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| {
                    (
                        key.as_str(),
                        Cursor {
                            value,
                            path: format!("{}.{key}", self.path),
                            faults: self.faults,
                        },
                    )
                })
                .collect(),
            _ => self.wrong("an object").unwrap_or_default(),
        }
    }

    /// Notes a fault if something other than an object is here.
    pub(crate) fn expect_object(&self) {
        if !self.value.is_null() && !self.value.is_object() {
            self.wrong::<()>("an object");
        }
    }

    /// A string.
    pub(crate) fn string(&self) -> Option<&'a str> {
        match self.value {
            Value::Null => None,
            Value::String(s) => Some(s),
            _ => self.wrong("a string"),
        }
    }

    /// A boolean.
    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Null => None,
            Value::Bool(b) => Some(*b),
            _ => self.wrong("a boolean"),
        }
    }

    /// A port, 1 to 65535.
    pub(crate) fn port(&self) -> Option<u16> {
        match self.value {
            Value::Null => None,
            Value::Number(n) => match n.as_u64().and_then(|n| u16::try_from(n).ok()) {
                Some(port) if port != 0 => Some(port),
                _ => {
                    self.fault(&format!("expected a port from 1 to 65535, found {n}"));
                    None
                }
            },
            _ => self.wrong("a port number"),
        }
    }

    /// A port where 0 means none, as for `nodePort` and `hostPort`.
    pub(crate) fn optional_port(&self) -> Option<u16> {
        if self.value.as_u64() == Some(0) {
            None
        } else {
            self.port()
        }
    }

    /// An IP address, as Kubernetes reads one; an empty string is none.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let text = self.string()?;
        if text.is_empty() {
            return None;
        }
        let parsed = address(text);
        if parsed.is_none() {
            self.fault(&format!("expected an IP address, found {text:?}"));
        }
        parsed
    }

    /// A map of strings to strings, as labels and annotations are.
    pub(crate) fn string_map(&self) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        for (key, cursor) in self.entries() {
            match cursor.value {
                Value::String(s) => {
                    map.insert(key.to_owned(), s.clone());
                }
                // The API server reads null as an empty string here.
                Value::Null => {
                    map.insert(key.to_owned(), String::new());
                }
                other => self.fault(&format!(
                    "key {key:?}: expected a string, found {} (write \"{}\" in quotes)",
                    type_name(other),
                    short(other)
                )),
            }
        }
        map
    }
}

/// An IP address, as `ParseIPSloppy` reads it, which the API server and kube-proxy use: numbers of IPv4 may begin with
/// zeros and are decimal, and a v4-mapped address is the IPv4 address.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let number = part.trim_start_matches('0');
        let number = if number.is_empty() { "0" } else { number };
        digits.then(|| number.parse().ok()).flatten()
    };
    let numbers: Option<Vec<u8>> = text.split('.').map(number).collect();
    <[u8; 4]>::try_from(numbers?).ok().map(IpAddr::from)
}

/// A value, cut to a readable length.
pub(crate) fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 {
        text
    } else {
        text.chars().take(39).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wrong_type_then_absent_and_a_fault_with_its_path() {
        let value =
            json!({"spec": {"ports": [{"port": "80"}, {"port": 65536}, {"port": 0}, {"port": 80}]}, "a": 1});
        let faults = Faults::default();
        let top = Cursor::new(&value, &faults);
        let ports: Vec<_> = top
            .at(&["spec", "ports"])
            .list()
            .iter()
            .map(|p| p.field("port").port())
            .collect();
        assert_eq!(ports, [None, None, None, Some(80)]);
        assert_eq!(top.at(&["a", "b"]).string(), None);
        assert_eq!(top.at(&["a", "c"]).string(), None);
        let found = faults.into_inner();
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(
            found[0],
            "spec.ports[0].port: expected a port number, found a string"
        );
        assert_eq!(found[3], "a: expected an object, found a number");
    }

    #[test]
    fn addresses_then_as_kubernetes_reads_them() {
        let read = |text: &str| address(text).map(|address| address.to_string());
        for (text, wanted) in [
            ("10.0.0.5", Some("10.0.0.5")),
            ("010.0.0.005", Some("10.0.0.5")),
            ("0.00.000.0", Some("0.0.0.0")),
            ("::ffff:10.0.0.5", Some("10.0.0.5")),
            ("::ffff:a00:5", Some("10.0.0.5")),
            ("2001:db8::5", Some("2001:db8::5")),
            ("10.0.0.256", None),
            ("10.0.0", None),
            ("10.0.0.5.6", None),
            ("10..0.5", None),
            ("10.0.0.+5", None),
            ("10.0.0.0x5", None),
            ("fe80::1%eth0", None),
            (" 10.0.0.5", None),
        ] {
            assert_eq!(read(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn unquoted_boolean_in_a_string_map_then_a_fault_that_names_the_key() {
        let value = json!({"a": true, "b": "x", "c": null});
        let faults = Faults::default();
        let map = Cursor::new(&value, &faults).string_map();
        assert_eq!(map.get("b").map(String::as_str), Some("x"));
        assert_eq!(map.get("c").map(String::as_str), Some(""));
        assert_eq!(map.get("a"), None);
        assert_eq!(
            faults.into_inner(),
            [": key \"a\": expected a string, found a boolean (write \"true\" in quotes)"]
        );
    }
}
