//! Other projects' own test suites, run directly and through the proxy: are the results equal?
//!
//! A suite is a directory of `tests/suites`; its README says what must be in it.

mod results;
mod run;

pub use results::{Comparison, Explained, Results, Status};
pub use run::{Place, Suite, all};
