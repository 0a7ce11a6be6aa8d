//! What callers ask about their own key, and the trial-key API, as clients of both ports meet them, on
//! both stores.

mod clients;
mod crowds;
mod draws;
mod house;
mod refusals;
mod relay;
mod trial;
mod trial_usage;
