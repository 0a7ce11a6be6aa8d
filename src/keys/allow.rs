//! Allow lists: addresses, origins, models.
