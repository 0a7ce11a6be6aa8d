//! A form whose pool knows its model by another name.

use bytes::Bytes;

use super::body::Body;
use crate::metering::FormModel;

/// What was read of a form, as its client sent it: its head, or all of it.
#[derive(Debug)]
pub struct Form {
    model: FormModel,
    bytes: Bytes,
    /// Bytes of the whole, where the client said so.
    length: Option<usize>,
    /// The model that the body on its way names.
    names: String,
}

impl Form {
    /// `None` where nothing of it is here.
    pub fn of(body: &Body, model: FormModel, length: Option<usize>) -> Option<Form> {
        let bytes = match body {
            Body::Held(bytes) | Body::Headed { head: bytes, .. } => bytes.clone(),
            Body::Passing => return None,
        };
        Some(Form {
            names: model.name.clone(),
            model,
            bytes,
            length,
        })
    }

    /// Makes the body name this model, or the client's own.
    pub fn name(&mut self, body: &mut Body, alias: Option<&str>) {
        let name = alias.unwrap_or(&self.model.name);
        if *name == self.names {
            return;
        }
        name.clone_into(&mut self.names);
        let bytes = Bytes::from(self.model.replaced(&self.bytes, &self.names));
        let (longer, shorter) = (bytes.len(), self.bytes.len());
        match body {
            Body::Held(held) => *held = bytes,
            Body::Headed { head, length, .. } => {
                *head = bytes;
                *length = self.length.map(|length| length + longer - shorter);
            }
            Body::Passing => {}
        }
    }
}

pub fn is_multipart(content_type: &str) -> bool {
    let kind = content_type.split_once('/').map(|(kind, _)| kind.trim());
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("multipart"))
}
