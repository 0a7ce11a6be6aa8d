//! The composition root: builds every part, in order, and takes them down in order.
