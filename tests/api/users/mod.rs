//! Users, their keys, and what operators ask of the books: through real HTTP, on the embedded store and
//! on Redis (RELIABILITY 23 too).

mod books;
mod description;
mod guards;
mod house;
mod keys;
mod people;
