//! A consistency checker: clients that keep books of what they were told, faults at random, and a
//! comparison of the books with what the servers have in the end.
//!
//! What must hold, whatever dies: a write that was acknowledged is there, once; one that was refused
//! is not; one whose outcome the client was not told is there once or not at all; money that is moved
//! about stays the same in sum, in every read; a read sees every write acknowledged before it began;
//! and in the end every replica has what the primary has.
//!
//! A run is a series of rounds, each with servers of its own and a seed that repeats its faults, so
//! that however long it is, it takes no more room than one round.

mod books;
mod place;
mod random;
mod round;
mod trouble;

pub use books::{Books, Told, Verdict};
pub use place::Place;
pub use random::Random;
pub use round::{Round, Story};
pub use trouble::Trouble;
