//! The one decision whether a key may proceed with a request.
