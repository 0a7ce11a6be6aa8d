//! The admin service on the side port.
