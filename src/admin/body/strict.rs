//! JSON that is read more strictly than serde reads it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::fields::cut;

/// Objects of a body that is a list of them.
const MAX_ITEMS: usize = 1_000;

/// An object none of whose names stands twice: which of the two was meant cannot be known.
pub(super) struct Unique(pub(super) BTreeMap<String, Box<RawValue>>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut values = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    let shown = cut(&name);
                    if values.insert(name, value).is_some() {
                        return Err(A::Error::custom(format!("{shown} stands twice")));
                    }
                }
                Ok(Unique(values))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// 1 to [`MAX_ITEMS`] values; a longer list is not read to its end.
pub(super) struct Listed(pub(super) Vec<Box<RawValue>>);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Listed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Listed, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == MAX_ITEMS {
                        return Err(A::Error::custom("there are more"));
                    }
                    items.push(item);
                }
                if items.is_empty() {
                    return Err(A::Error::custom("it is empty"));
                }
                Ok(Listed(items))
            }
        }
        deserializer.deserialize_seq(Items)
    }
}
