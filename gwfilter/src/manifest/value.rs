//! Any serde input to [`serde_json::Value`], as `kubectl` reads it: duplicate keys refused, YAML merge keys applied,
//! keys made strings, and the whole bounded.
//!
//! YAML aliases can make a small text stand for a huge tree. The library bounds the number of jumps, not what they
//! copy; here everything that is built is counted against a budget that grows with the text only linearly.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What may still be built: nodes and bytes of strings.
pub(super) struct Budget(Cell<usize>);

/// Room for aliases in a small text.
const FREE: usize = 1 << 20;
/// Cost of a node beside its text.
const NODE: usize = 8;

impl Budget {
    /// Enough for any text of this length without aliases, and for moderate use of them.
    pub(super) fn new(text: usize) -> Self {
        Self(Cell::new(text.saturating_mul(NODE + 2).saturating_add(FREE)))
    }

    fn spend<E: Error>(&self, cost: usize) -> Result<(), E> {
        match self.0.get().checked_sub(cost) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => Err(E::custom(
                "anchors and aliases make far more of this text than it is: write it out",
            )),
        }
    }
}

/// Reads one value.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<Value, D::Error> {
    Seed(budget).deserialize(deserializer)
}

struct Seed<'a>(&'a Budget);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.0.spend(NODE)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.0.spend(NODE)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.0.spend(NODE)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.0.spend(NODE)?;
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("JSON has no such number"))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        Err(E::custom(format!("the number {value} is too large")))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        Err(E::custom(format!("the number {value} is too large")))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.0.spend(NODE + value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        self.0.spend(NODE + value.len())?;
        Ok(Value::String(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.0.spend(NODE)?;
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom(
            "YAML tags such as !this have no meaning in a manifest",
        ))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.0.spend(NODE)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Seed(self.0))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.0.spend(NODE)?;
        let mut map = Map::new();
        let mut merges = Vec::new();
        while let Some(key) = entries.next_key_seed(Seed(self.0))? {
            let key = match key {
                Value::String(key) => key,
                Value::Bool(_) | Value::Number(_) => key.to_string(),
                _ => return Err(A::Error::custom("a key must be a string")),
            };
            let value = entries.next_value_seed(Seed(self.0))?;
            if key == "<<" {
                merges.push(value);
            } else if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            } else {
                map.insert(key, value);
            }
        }
        for merge in merges {
            merge_into(&mut map, merge).map_err(A::Error::custom)?;
        }
        Ok(Value::Object(map))
    }
}

/// YAML's `<<`: the entries of a mapping, or of a list of mappings where the first one wins, below the own entries.
fn merge_into(map: &mut Map<String, Value>, merge: Value) -> Result<(), &'static str> {
    let sources = match merge {
        Value::Array(items) => items,
        other => vec![other],
    };
    for source in sources {
        let Value::Object(source) = source else {
            return Err("the merge key << wants a mapping, or a list of mappings");
        };
        for (key, value) in source {
            map.entry(key).or_insert(value);
        }
    }
    Ok(())
}
